# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# <<template>>, then `make infra`.
# Alert policies of one Cloud Run service, and an uptime check where its host is given. main.tf uses
# them as a module; beside services of gcloud they are applied alone (docs/deploy.md).

terraform {
  required_version = ">= 1.5, < 2.0"
  required_providers {
    google = { source = "hashicorp/google", version = "~> 6.50" }
  }
}

variable "project" { type = string }

variable "service" {
  type    = string
  default = "<<name>>-predict"
}

variable "host" {
  type        = string
  default     = ""
  description = "Host name of a service that anyone may call; empty: no uptime check, which has no token."
}

variable "notification_channels" {
  type        = list(string)
  default     = []
  description = "Who is notified: projects/PROJECT/notificationChannels/ID."
}

resource "google_monitoring_uptime_check_config" "health" {
  count        = var.host == "" ? 0 : 1
  project      = var.project
  display_name = "${var.service} /health/"
  timeout      = "10s"
  period       = "300s"

  http_check {
    path         = "/health/"
    port         = 443
    use_ssl      = true
    validate_ssl = true
  }

  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project, host = var.host }
  }
}

resource "google_monitoring_alert_policy" "down" {
  count                 = var.host == "" ? 0 : 1
  project               = var.project
  display_name          = "${var.service} is down"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.notification_channels

  conditions {
    display_name = "/health/ fails from more than one region"
    condition_threshold {
      filter          = "resource.type = \"uptime_url\" AND metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\" AND metric.labels.check_id = \"${google_monitoring_uptime_check_config.health[0].uptime_check_id}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "300s"
      aggregations {
        alignment_period     = "600s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }
}
<% macro alarm(name, title, said, metric, threshold, aligner, reducer, only="", share=false) -%>
resource "google_monitoring_alert_policy" "<<name>>" {
  project               = var.project
  display_name          = "${var.service} <<title>>"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = var.notification_channels

  conditions {
    display_name = "<<said>>"
    condition_threshold {
      filter          = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${var.service}\" AND metric.type = \"run.googleapis.com/<<metric>>\"<<only>>"
      comparison      = "COMPARISON_GT"
      threshold_value = <<threshold>>
      duration        = "300s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "<<aligner>>"
        cross_series_reducer = "<<reducer>>"
<%- if reducer != "REDUCE_SUM" %>
        group_by_fields      = ["resource.label.revision_name"] # a canary beside the one before
<%- endif %>
      }
<%- if share %>
      denominator_filter = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${var.service}\" AND metric.type = \"run.googleapis.com/<<metric>>\""
      denominator_aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "<<aligner>>"
        cross_series_reducer = "<<reducer>>"
      }
<%- endif %>
    }
  }
}
<% endmacro %>
<<alarm("errors", "fails", "more than 5 % of the answers are 5xx", "request_count", "0.05", "ALIGN_RATE", "REDUCE_SUM", " AND metric.labels.response_code_class = \\\"5xx\\\"", share=true)>>
<<alarm("latency", "is slow", "p99 above rollout.p99_ms", "request_latencies", rollout.p99_ms, "ALIGN_DELTA", "REDUCE_PERCENTILE_99")>>
<<alarm("memory", "is short of memory", "p99 above the band critical", "container/memory/utilizations", predict.bands.critical, "ALIGN_DELTA", "REDUCE_PERCENTILE_99")>>
<<alarm("throttled", "turns callers away", "more than 5 % of the answers are 429: by max_instances or QUOTA", "request_count", "0.05", "ALIGN_RATE", "REDUCE_SUM", " AND metric.labels.response_code = \\\"429\\\"", share=true)>>
