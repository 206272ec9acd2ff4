# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# infra/templates/gcp/main.tf, then `make infra`.
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
  name                        = "${var.project}-macule-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

resource "google_service_account" "runtime" {
  account_id   = "macule-runtime"
  display_name = "macule functions: no role at all"
}

resource "google_service_account" "scheduler" {
  account_id   = "macule-scheduler"
  display_name = "macule warm-up: may call predict"
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
      API_KEYS                  = var.api_keys
    }
  }
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
      PREDICT_KEY               = var.predict_key
    }
  }
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
    headers     = { "X-API-Key" = var.predict_key }
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = google_cloudfunctions2_function.predict.service_config[0].uri
    }
  }
}

output "predict_url" {
  value = google_cloudfunctions2_function.predict.service_config[0].uri
}

output "health_url" {
  value = google_cloudfunctions2_function.health.service_config[0].uri
}
