# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# <<template>>, then `make infra`.
# Cloud Run functions from the bundles of `make bundle`, closed unless `public`, and the warm-up ping.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google  = { source = "hashicorp/google", version = ">= 5.0" }
    archive = { source = "hashicorp/archive", version = ">= 2.4" }
  }
}

variable "project" { type = string }

variable "region" { type = string }

variable "public" {
  type        = bool
  default     = false
  description = "Let anyone call both functions; else callers need roles/run.invoker."
}

variable "api_keys" {
  type        = string
  default     = ""
  sensitive   = true
  description = "API_KEYS of predict, as name:hash pairs; empty leaves it open to whoever may call it."
}

variable "predict_key" {
  type        = string
  default     = "none" # a header needs a value; without api_keys nobody looks at it
  sensitive   = true
  description = "One of these keys, for the warm-up ping and the health function."
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_storage_bucket" "source" {
  name                        = "${var.project}-<<name>>-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

resource "google_service_account" "runtime" {
  account_id   = "<<name>>-runtime"
  display_name = "<<name>> functions: no role at all"
}

resource "google_service_account" "scheduler" {
  account_id   = "<<name>>-scheduler"
  display_name = "<<name>> warm-up: may call predict"
}
<% for function in functions %>
data "archive_file" "<<function.name>>" {
  type        = "zip"
  source_dir  = "${path.module}/../../build/gcp/<<function.name>>"
  output_path = "${path.module}/../../build/gcp/<<function.name>>.zip"
}

resource "google_storage_bucket_object" "<<function.name>>" {
  bucket = google_storage_bucket.source.name
  name   = "<<function.name>>-${data.archive_file.<<function.name>>.output_sha256}.zip"
  source = data.archive_file.<<function.name>>.output_path
}

resource "google_cloudfunctions2_function" "<<function.name>>" {
  name     = "<<name>>-<<function.name>>"
  location = var.region

  build_config {
    runtime     = "python<<python_minor | replace('.', '')>>"
    entry_point = "<<function.name>>"
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.<<function.name>>.name
      }
    }
  }

  service_config {
    available_memory                 = "<<function.memory_mb>>Mi"
    available_cpu                    = "<<'%g' % function.cpu>>"
    max_instance_request_concurrency = <<function.concurrency>>
    min_instance_count               = 0
    max_instance_count               = <<function.max_instances>>
    timeout_seconds                  = <<function.timeout_s>>
    service_account_email            = google_service_account.runtime.email
    environment_variables = {
      MEMORY_LIMIT_MB           = "<<function.memory_mb>>"
      CLOUD_RUN_TIMEOUT_SECONDS = "<<function.timeout_s>>"
<%- for key, value in function.variables(cloud_run_bytes).items() %>
      <<"%-25s" % key>> = "<<value>>"
<%- endfor %>
<%- if function.name == "health" %>
      PREDICT_URL               = var.public ? google_cloudfunctions2_function.predict.service_config[0].uri : ""
      PREDICT_KEY               = var.predict_key
<%- else %>
      API_KEYS                  = var.api_keys
<%- endif %>
    }
  }
}

resource "google_cloud_run_service_iam_member" "<<function.name>>_public" {
  count    = var.public ? 1 : 0
  location = var.region
  service  = google_cloudfunctions2_function.<<function.name>>.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}
<% endfor %>
resource "google_cloud_run_service_iam_member" "scheduler" {
  location = var.region
  service  = google_cloudfunctions2_function.predict.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${google_service_account.scheduler.email}"
}

resource "google_cloud_scheduler_job" "warmup" {
  name             = "<<name>>-warmup"
  region           = var.region
  schedule         = "<<warmup_cron>>"
  attempt_deadline = "<<warmup_wait_s>>s"

  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "GET"
    uri         = "${google_cloudfunctions2_function.predict.service_config[0].uri}/warmup/"
    headers     = { "X-API-Key" = var.predict_key }
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = google_cloudfunctions2_function.predict.service_config[0].uri
    }
  }
}
<% for function in functions %>
output "<<function.name>>_url" {
  value = google_cloudfunctions2_function.<<function.name>>.service_config[0].uri
}
<% endfor -%>
