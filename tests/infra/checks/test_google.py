"""Cloud Run services, Terraform of functions and of alert policies: each mistake is rejected."""

import pytest
from support.mutants import changed, complaints

from infra.limits import Limits

PLAIN = changed({"api_keys": False, "rollout.canary_percent": 0})
ASKED = changed({"api_keys": True, "rollout.canary_percent": 10, "rollout.alarms": True})
PREDICT, HEALTH = "infra/gcp/predict.yaml", "infra/gcp/health.yaml"
FUNCTIONS, ALARMS = "infra/gcp/main.tf", "infra/gcp/alarms/main.tf"
IAM = 'resource "google_project_iam_member" "x" {\n  role = "roles/editor"\n  member = "x"\n}\n'
SLIPS = {
    "memory in MB": (
        PREDICT,
        "memory: <<predict.memory_mb>>Mi",
        "memory: <<predict.memory_mb>>MB",
        "memory is",
    ),
    "another memory": (
        PREDICT,
        "memory: <<predict.memory_mb>>Mi",
        "memory: <<predict.memory_mb * 2>>Mi",
        "memory is",
    ),
    "a smaller processor": (
        PREDICT,
        "cpu: <<millicpu(predict.cpu)>>",
        "cpu: <<millicpu(predict.cpu / 16)>>",
        "CPU is",
    ),
    "a text for a number": (
        PREDICT,
        "containerConcurrency: <<predict.concurrency>>",
        'containerConcurrency: "<<predict.concurrency>>"',
        "not of type",
    ),
    "a key that is none": (PREDICT, "timeoutSeconds:", "timeoutSecs:", "was unexpected"),
    "more instances": (
        PREDICT,
        'maxScale: "<<predict.max_instances>>"',
        'maxScale: "<<predict.max_instances + 1>>"',
        "maxScale is",
    ),
    "no bound on instances": (
        HEALTH,
        'autoscaling.knative.dev/maxScale: "<<health.max_instances>>"\n        ',
        "",
        "maxScale is None",
    ),
    "many at once on less than a processor": (
        HEALTH,
        "containerConcurrency: <<health.concurrency>>",
        "containerConcurrency: <<health.concurrency + 1>>",
        "concurrency is",
    ),
    "a probe that works": (HEALTH, "path: /health/", "path: /memory/", "no route that answers"),
    "the default account": (
        PREDICT,
        "serviceAccountName: <<name>>-runtime",
        "serviceAccountName: default",
        "serviceAccountName is",
    ),
    "no account": (
        HEALTH,
        "serviceAccountName: <<name>>-runtime@PROJECT.iam.gserviceaccount.com",
        "",
        "serviceAccountName is None",
    ),
    "another Python": (
        "infra/gcp/python-version",
        "<<python_minor>>",
        "<<python_minor>>1",
        "python-version is",
    ),
    "functions of another Python": (
        FUNCTIONS,
        "\"python<<python_minor | replace('.', '')>>\"",
        '"python39"',
        "runtime is 'python39'",
    ),
    "an argument that is none": (
        FUNCTIONS,
        "available_memory ",
        "available_ram ",
        "'available_ram' was unexpected",
    ),
    "an argument that is missing": (
        FUNCTIONS,
        'account_id   = "<<name>>-runtime"',
        "",
        "'account_id' is a required property",
    ),
    "functions without a bound": (FUNCTIONS, "max_instance_count", "min_instance_count", "max_"),
    "a ping that is repeated": (FUNCTIONS, "retry_count = 0", "retry_count = 5", "must be 0"),
    "another ping": (FUNCTIONS, '"<<warmup_cron>>"', '"7 * * * *"', "the schedule is"),
    "a ping of health": (
        FUNCTIONS,
        "predict.service_config[0].uri}/warmup/",
        "health.service_config[0].uri}/warmup/",
        "not predict",
    ),
    "a ping as the runtime": (
        FUNCTIONS,
        "service_account_email = google_service_account.scheduler.email",
        "service_account_email = google_service_account.runtime.email",
        "its tokens are",
    ),
    "an open bucket": (FUNCTIONS, '"enforced"', '"inherited"', "may be opened to the public"),
    "functions always open": (
        FUNCTIONS,
        "count    = var.public ? 1 : 0",
        "count    = 1",
        "public is False, and allUsers has roles/run.invoker",
    ),
    "functions open when closed": (
        FUNCTIONS,
        "count    = var.public ? 1 : 0",
        "count    = !var.public ? 1 : 0",
        "public is False, and allUsers has",
    ),
    "functions never open": (
        FUNCTIONS,
        "count    = var.public ? 1 : 0",
        'count    = var.public == "yes" ? 1 : 0',
        "public is True, and allUsers lacks",
    ),
    "everything to all": (
        FUNCTIONS,
        '"roles/run.invoker"\n  member   = "allUsers"',
        '"roles/run.admin"\n  member   = "allUsers"',
        "allUsers has roles/run.admin",
    ),
    "a role of the project": (
        FUNCTIONS,
        'module "alarms"',
        IAM + 'module "alarms"',
        "roles/editor on the project",
    ),
    "functions as the default account": (
        FUNCTIONS,
        "service_account_email            = google_service_account.runtime.email",
        "",
        "service_account_email is None",
    ),
    "a provider of any version": (FUNCTIONS, '"~> 6.50"', '">= 6.50"', "has no upper bound"),
    "a provider nobody checked": (FUNCTIONS, '"~> 6.50"', '"~> 7.0"', "leaves out 6.50.0"),
    "Terraform of any version": (FUNCTIONS, ">= 1.5, < 2.0", ">= 1.5", "has no upper bound"),
    "another file than is mounted": (
        FUNCTIONS,
        '"/etc/secrets/keys"',
        '"/etc/secrets/key"',
        "API_KEYS is '/etc/secrets/key'",
    ),
    "keys that are always read": (
        FUNCTIONS,
        'API_KEYS                  = var.api_keys_secret == "" ? "" : ',
        "API_KEYS                  = ",
        "are mounted",
    ),
    "a secret that nobody may read": (
        FUNCTIONS,
        'count     = var.api_keys_secret == "" ? 0 : 1',
        "count     = 0",
        "lacks roles/secretmanager.secretAccessor on api",
    ),
    "a secret that may be changed": (
        FUNCTIONS,
        '"roles/secretmanager.secretAccessor"',
        '"roles/secretmanager.admin"',
        "has roles/secretmanager.admin on api",
    ),
    "a key as a plain variable": (
        FUNCTIONS,
        "PREDICT_URL               =",
        'PREDICT_KEY               = "mk_x"\n      PREDICT_URL               =',
        "PREDICT_KEY is a plain variable",
    ),
    "a ping without a key": (
        FUNCTIONS,
        "headers     = var.predict_key_secret",
        "headers     = {} #",
        "its headers are {}",
    ),
    "keys without one for the ping": (
        FUNCTIONS,
        '(var.api_keys_secret == "") == (var.predict_key_secret == "")',
        "true",
        "none for the ping is not refused",
    ),
    "a variable that is none": (FUNCTIONS, "location = var.region", "location = var.zone", "zone"),
    "what is not made": (
        FUNCTIONS,
        '"X-API-Key" = trimspace(',
        '"X-API-Key" = trimspace(data.google_secret_manager_secret.x.y, ',
        "nothing of that name is declared",
    ),
    "what a count of 0 leaves out": (
        FUNCTIONS,
        'headers     = var.predict_key_secret == "" ? {} : ',
        "headers     = ",
        "it is not made, as its count is 0",
    ),
    "alarms always": (
        FUNCTIONS,
        "count                 = var.alarms ? 1 : 0",
        "",
        "alarms is False",
    ),
    "alarms of their own accord": (
        FUNCTIONS,
        "default     = <<'true' if rollout.alarms else 'false'>>\n  description = \"Create the",
        "default     = <<'false' if rollout.alarms else 'true'>>\n  description = \"Create the",
        "by default",
    ),
    "alarms of nothing": (
        FUNCTIONS,
        "  project               = var.project\n",
        "",
        "it lacks ['project']",
    ),
    "alarms that ask a closed service": (
        FUNCTIONS,
        "var.public ? trimprefix",
        "!var.public ? trimprefix",
        "module.alarms: it looks at",
    ),
    "latency of another bound": (
        ALARMS,
        "threshold_value = <<rollout.p99_ms>>",
        "threshold_value = <<rollout.p99_ms + 1>>",
        "latency: threshold_value is",
    ),
    "memory of another band": (
        ALARMS,
        "threshold_value = <<predict.bands.critical>>",
        "threshold_value = 1",
        "memory: threshold_value is 1",
    ),
    "an enumeration's value that is none": (
        ALARMS,
        "COMPARISON_GT",
        "GREATER_THAN",
        "'GREATER_THAN' is not one of",
    ),
    "a mean of durations": (
        ALARMS,
        "REDUCE_PERCENTILE_99",
        "REDUCE_MEAN",
        "REDUCE_MEAN does not go with",
    ),
    "a number, not a share": (ALARMS, "denominator_filter", "# ", "not a share of them"),
    "a metric that is none": (ALARMS, "/request_latencies", "/latency", "no metric that is known"),
    "every service's": (
        ALARMS,
        'resource.labels.service_name = \\"${var.service}\\" AND metric.type',
        "metric.type",
        "looks at every service",
    ),
    "an uptime check of what asks for keys": (
        ALARMS,
        '"/health/"\n    port',
        '"/memory/"\n    port',
        "path is '/memory/'",
    ),
    "an uptime check without a host": (
        ALARMS,
        'var.host == "" ? 0 : 1',
        "1",
        "with the host '' the uptime checks are",
    ),
    "an uptime check in the clear": (
        ALARMS,
        "use_ssl      = true",
        "use_ssl      = false",
        "use_ssl is False",
    ),
}
ASKED_SLIPS = {
    "a canary of another share": (
        PREDICT,
        "percent: <<rollout.canary_percent>>\n",
        "percent: <<rollout.canary_percent + 1>>\n",
        "traffic is",
    ),
    "a canary of no revision": (
        PREDICT,
        "revisionName: PREVIOUS",
        "latestRevision: true",
        "traffic",
    ),
    "a canary without an address": (HEALTH, "      tag: candidate", "     #", "traffic is"),
    "a canary whose share is a text": (
        HEALTH,
        "percent: <<100 - rollout.canary_percent>>",
        "percent: <<100 - rollout.canary_percent>>%",
        "is not of type 'integer'",
    ),
    "keys as a plain variable": (
        PREDICT,
        "value: /etc/secrets/keys",
        "value: ping:0123",
        "API_KEYS is",
    ),
    "keys of another secret": (
        PREDICT,
        "secretName: <<name>>-keys",
        "secretName: k",
        "the secrets",
    ),
    "keys that are not mounted": (
        PREDICT,
        "mountPath: /etc/secrets",
        "mountPath: /etc",
        "the keys",
    ),
    "alarms that are not made": (
        FUNCTIONS,
        "default     = true",
        "default     = false",
        "by default",
    ),
}


@pytest.mark.parametrize(
    ("path", "text", "slip", "expected", "table"),
    [(*slip, PLAIN) for slip in SLIPS.values()] + [(*slip, ASKED) for slip in ASKED_SLIPS.values()],
    ids=[*SLIPS, *ASKED_SLIPS],
)
def test_a_mutant_is_rejected(
    path: str, text: str, slip: str, expected: str, table: Limits
) -> None:
    """A template with one mistake is rejected, and the complaint names it."""
    found = complaints(path, text, slip, table)

    assert any(expected in complaint for complaint in found), found
