# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# <<template>>, then `make infra`.
# Cloud Run functions from the bundles of `make bundle`, closed unless `public`, and the warm-up ping.

terraform {
  required_version = ">= 1.5, < 2.0"
  required_providers {
    google  = { source = "hashicorp/google", version = "~> 6.50" } # what infra/schemas/ checks
    archive = { source = "hashicorp/archive", version = "~> 2.7" }
  }
}

variable "project" { type = string }

variable "region" { type = string }

variable "public" {
  type        = bool
  default     = false
  description = "Let anyone call both functions; else callers need roles/run.invoker."
}

variable "api_keys_secret" {
  type        = string
  default     = ""
  description = "Secret of Secret Manager that holds the lines of API_KEYS; empty: predict asks for no key."
}

variable "predict_key_secret" {
  type        = string
  default     = ""
  description = "Secret that holds one of these keys, for the warm-up ping and the health function."
}

variable "alarms" {
  type        = bool
  default     = <<"true" if rollout.alarms else "false">>
  description = "Make the alert policies, and the uptime check where predict is public. They may cost money."
}

variable "notification_channels" {
  type        = list(string)
  default     = []
  description = "Who is notified: projects/PROJECT/notificationChannels/ID."
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
  display_name = "<<name>> functions: no role of the project"
}

resource "google_service_account" "scheduler" {
  account_id   = "<<name>>-scheduler"
  display_name = "<<name>> warm-up: may call predict"
}

# The runtime account may read these secrets, and nothing else.
<%- for secret in ("api_keys", "predict_key") %>
resource "google_secret_manager_secret_iam_member" "<<secret>>" {
  count     = var.<<secret>>_secret == "" ? 0 : 1
  secret_id = var.<<secret>>_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.runtime.email}"
}
<% endfor %>
# Cloud Scheduler takes headers as they are, so the ping's key is in the state as well.
data "google_secret_manager_secret_version" "predict_key" {
  count  = var.predict_key_secret == "" ? 0 : 1
  secret = var.predict_key_secret
}
<% for function in functions %>
<%- set secret = "predict_key" if function.name == "health" else "api_keys" %>
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
<%- else %>
      API_KEYS                  = var.api_keys_secret == "" ? "" : "/etc/secrets/keys"
<%- endif %>
    }
<%- if function.name == "health" %>

    dynamic "secret_environment_variables" {
      for_each = var.predict_key_secret == "" ? [] : [var.predict_key_secret]
      content {
        key        = "PREDICT_KEY"
        project_id = var.project
        secret     = secret_environment_variables.value
        version    = "latest"
      }
    }
<%- else %>

    dynamic "secret_volumes" {
      for_each = var.api_keys_secret == "" ? [] : [var.api_keys_secret]
      content {
        mount_path = "/etc/secrets"
        project_id = var.project
        secret     = secret_volumes.value
        versions {
          version = "latest"
          path    = "keys"
        }
      }
    }
<%- endif %>
  }

  depends_on = [google_secret_manager_secret_iam_member.<<secret>>]
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
    headers     = var.predict_key_secret == "" ? {} : { "X-API-Key" = trimspace(data.google_secret_manager_secret_version.predict_key[0].secret_data) }
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = google_cloudfunctions2_function.predict.service_config[0].uri
    }
  }

  lifecycle {
    precondition {
      condition     = (var.api_keys_secret == "") == (var.predict_key_secret == "")
      error_message = "Set both api_keys_secret and predict_key_secret, or neither: the ping needs a key."
    }
  }
}

module "alarms" {
  source                = "./alarms"
  count                 = var.alarms ? 1 : 0
  project               = var.project
  service               = google_cloudfunctions2_function.predict.name
  host                  = var.public ? trimprefix(google_cloudfunctions2_function.predict.service_config[0].uri, "https://") : ""
  notification_channels = var.notification_channels
}
<% for function in functions %>
output "<<function.name>>_url" {
  value = google_cloudfunctions2_function.<<function.name>>.service_config[0].uri
}
<% endfor -%>
