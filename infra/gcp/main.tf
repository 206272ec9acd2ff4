# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# infra/templates/gcp/main.tf, then `make infra`.
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
  default     = false
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
  name                        = "${var.project}-macule-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

resource "google_service_account" "runtime" {
  account_id   = "macule-runtime"
  display_name = "macule functions: no role of the project"
}

resource "google_service_account" "scheduler" {
  account_id   = "macule-scheduler"
  display_name = "macule warm-up: may call predict"
}

# The runtime account may read these secrets, and nothing else.
resource "google_secret_manager_secret_iam_member" "api_keys" {
  count     = var.api_keys_secret == "" ? 0 : 1
  secret_id = var.api_keys_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.runtime.email}"
}

resource "google_secret_manager_secret_iam_member" "predict_key" {
  count     = var.predict_key_secret == "" ? 0 : 1
  secret_id = var.predict_key_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.runtime.email}"
}

# Cloud Scheduler takes headers as they are, so the ping's key is in the state as well.
data "google_secret_manager_secret_version" "predict_key" {
  count  = var.predict_key_secret == "" ? 0 : 1
  secret = var.predict_key_secret
}

data "archive_file" "predict" {
  type        = "zip"
  source_dir  = "${path.module}/../../build/gcp/predict"
  output_path = "${path.module}/../../build/gcp/predict.zip"
}

resource "google_storage_bucket_object" "predict" {
  bucket = google_storage_bucket.source.name
  name   = "predict-${data.archive_file.predict.output_sha256}.zip"
  source = data.archive_file.predict.output_path
}

resource "google_cloudfunctions2_function" "predict" {
  name     = "macule-predict"
  location = var.region

  build_config {
    runtime     = "python313"
    entry_point = "predict"
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.predict.name
      }
    }
  }

  service_config {
    available_memory                 = "512Mi"
    available_cpu                    = "1"
    max_instance_request_concurrency = 8
    min_instance_count               = 0
    max_instance_count               = 10
    timeout_seconds                  = 60
    service_account_email            = google_service_account.runtime.email
    environment_variables = {
      MEMORY_LIMIT_MB           = "512"
      CLOUD_RUN_TIMEOUT_SECONDS = "60"
      WEB_CONCURRENCY           = "1"
      THREADS                   = "256"
      GRACEFUL_TIMEOUT_S        = "25"
      MAX_IMAGE_BYTES           = "10485760"
      MEMORY_BANDS              = "0.3,0.7,0.88,0.98"
      API_KEYS                  = var.api_keys_secret == "" ? "" : "/etc/secrets/keys"
    }

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
  }

  depends_on = [google_secret_manager_secret_iam_member.api_keys]
}

resource "google_cloud_run_service_iam_member" "predict_public" {
  count    = var.public ? 1 : 0
  location = var.region
  service  = google_cloudfunctions2_function.predict.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}

data "archive_file" "health" {
  type        = "zip"
  source_dir  = "${path.module}/../../build/gcp/health"
  output_path = "${path.module}/../../build/gcp/health.zip"
}

resource "google_storage_bucket_object" "health" {
  bucket = google_storage_bucket.source.name
  name   = "health-${data.archive_file.health.output_sha256}.zip"
  source = data.archive_file.health.output_path
}

resource "google_cloudfunctions2_function" "health" {
  name     = "macule-health"
  location = var.region

  build_config {
    runtime     = "python313"
    entry_point = "health"
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.health.name
      }
    }
  }

  service_config {
    available_memory                 = "128Mi"
    available_cpu                    = "0.083"
    max_instance_request_concurrency = 1
    min_instance_count               = 0
    max_instance_count               = 2
    timeout_seconds                  = 10
    service_account_email            = google_service_account.runtime.email
    environment_variables = {
      MEMORY_LIMIT_MB           = "128"
      CLOUD_RUN_TIMEOUT_SECONDS = "10"
      WEB_CONCURRENCY           = "1"
      THREADS                   = "8"
      GRACEFUL_TIMEOUT_S        = "5"
      MAX_IMAGE_BYTES           = "1048576"
      MEMORY_BANDS              = "0.3,0.7,0.88,0.98"
      PREDICT_URL               = var.public ? google_cloudfunctions2_function.predict.service_config[0].uri : ""
    }

    dynamic "secret_environment_variables" {
      for_each = var.predict_key_secret == "" ? [] : [var.predict_key_secret]
      content {
        key        = "PREDICT_KEY"
        project_id = var.project
        secret     = secret_environment_variables.value
        version    = "latest"
      }
    }
  }

  depends_on = [google_secret_manager_secret_iam_member.predict_key]
}

resource "google_cloud_run_service_iam_member" "health_public" {
  count    = var.public ? 1 : 0
  location = var.region
  service  = google_cloudfunctions2_function.health.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}

resource "google_cloud_run_service_iam_member" "scheduler" {
  location = var.region
  service  = google_cloudfunctions2_function.predict.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${google_service_account.scheduler.email}"
}

resource "google_cloud_scheduler_job" "warmup" {
  name             = "macule-warmup"
  region           = var.region
  schedule         = "*/10 * * * *"
  attempt_deadline = "60s"

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

output "predict_url" {
  value = google_cloudfunctions2_function.predict.service_config[0].uri
}

output "health_url" {
  value = google_cloudfunctions2_function.health.service_config[0].uri
}
