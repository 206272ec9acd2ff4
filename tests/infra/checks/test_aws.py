"""The SAM template: each mistake is rejected, for any table of limits."""

import pytest

from infra import generate, limits
from infra.checks import aws

PATH = "infra/aws/template.yaml"
TABLE = limits.read()
# With everything that is off because it costs money.
ROLLOUT = TABLE._replace(
    rollout=TABLE.rollout._replace(canary_percent=5, canary_minutes=15, alarms=True)
)
MEMORY, TIMEOUT = TABLE.predict.memory_mb, TABLE.predict.timeout_s
RESERVED = f"!If [Reserve, {TABLE.predict.max_instances}, !Ref AWS::NoValue]"
RESOLVED = "{{resolve:secretsmanager:${Secret}:SecretString:API_KEYS}}"
OPEN = "    Type: AWS::Lambda::Permission\n    Condition: Open\n"
URL_ACTION = "      Action: lambda:InvokeFunctionUrl\n      FunctionName: !Ref"
THRESHOLD = f"Threshold: {TABLE.rollout.p99_ms}"

MUTANTS = [
    (f"MemorySize: {MEMORY}", "MemorySize: 20480", "is not 128 to 10240"),
    (f"MemorySize: {MEMORY}", f"MemorySize: {MEMORY + 1}", f"{MEMORY + 1}, not {MEMORY}"),
    (f"MemorySize: {MEMORY}", f"MemorySise: {MEMORY}", "MemorySise"),
    (f"Runtime: python{TABLE.python_minor}", "Runtime: python3.1", "python3.1"),
    (f"Timeout: {TIMEOUT}", "Timeout: 6000", "Timeout is 6000"),
    (f"[{TABLE.architecture}]", "[i386]", "i386"),
    ("Handler: main.handler", "Handler: main.app", "main.app"),
    (f"minute{'s' * (TABLE.warmup_minutes > 1)})", "fortnights)", "fortnights"),
    ("Attempts: 0", "Attempts: 9", "MaximumRetryAttempts must be 0"),
    ('{"warmup": true}', '{"warmup": 1}', "which is no warm-up"),
    ("      Layers: [!Ref Layer]\n", "", "Layers are None"),
    ("!Ref Layer]", "!Ref Lair]", "Lair"),
    # permissions
    ("AuthType: !Ref UrlAuth", "AuthType: OPEN", "AWS_IAM or NONE"),
    ("AuthType: !Ref UrlAuth", "AuthType: AWS_IAM", "AuthType is AWS_IAM, not UrlAuth"),
    ("AuthType: !Ref UrlAuth", "AuthType: !Ref UrlAuth\n        Corss: {}", "Corss"),
    (OPEN, OPEN.replace("Open", "Reserve"), "and anyone is permitted"),
    (OPEN, OPEN.replace("    Condition: Open\n", ""), "and anyone is permitted"),
    (OPEN, OPEN.replace("Open", "Opened"), "no condition Opened"),
    (f"{URL_ACTION} Predict.Alias", f"{URL_ACTION} Predict", "and anyone is permitted"),
    ("      InvokedViaFunctionUrl: true\n", "", "anyone may lambda:InvokeFunction"),
    ("FunctionUrlAuthType: NONE", "FunctionUrlAuthType: AWS_IAM", "and anyone is permitted"),
    ("Action: lambda:InvokeFunctionUrl", 'Action: "lambda:*"', "anyone may lambda:*"),
    (
        "      AutoPublishAlias: live\n",
        "      AutoPublishAlias: live\n      Policies: [AdministratorAccess]\n",
        "a managed policy beyond",
    ),
    ("!GetAtt PredictUrl.FunctionUrl, ", "!GetAtt HealthUrl.FunctionUrl, ", "PREDICT_URL is"),
    # versions and their alias
    ("      AutoPublishAlias: live\n", "      AutoPublishAlias: beta\n", "not the alias"),
    ("AllProperties: true", "AllProperties: false", "another ContentUri of Layer publishes no"),
    ("PublishLambdaVersion: true", "PublishLambdaVersion: false", "another ContentUri of Layer"),
    ("VersionDescription: !Sub", "VersionDescription: secret #", "publishes no version"),
    # a limit on cost
    (f"      ReservedConcurrentExecutions: {RESERVED}\n", "", "ReservedConcurrentExecutions is"),
    (RESERVED, RESERVED.replace("Reserve, ", "Reserve, 1"), "ReservedConcurrentExecutions is 1"),
    (RESERVED, "1", "ReservedConcurrentExecutions is 1"),
    # snapshots
    ("[UseSnapStart, PublishedVersions, None]", "[UseSnapStart, None, None]", "ApplyOn is None"),
    ("ApplyOn: !If [UseSnapStart,", "ApplyOn: !If [Reserve,", "ApplyOn is PublishedVersions"),
    ("[UseSnapStart, PublishedVersions,", "[UseSnapStart, AllVersions,", "AllVersions"),
    # secrets
    (f'!If [HasSecret, !Sub "{RESOLVED}", ""]', "!Ref Secret", "not from the secret"),
    (RESOLVED, "{{resolve:ssm:${Secret}}}", "not from the secret"),
    ("          PREDICT_KEY: ", "          PREDICT_KEI: ", "PREDICT_KEY is None"),
    # the log
    ("LogFormat: JSON", "LogFormat: Text", "LoggingConfig is"),
    ("LogGroup: !Ref PredictLog", "LogGroup: !Ref HealthLog", "LoggingConfig is"),
    # only the linter finds these
    ("RetentionInDays: 14", "RetentionInDays: 15", "15 is not one of"),
    ('Default: "no"', 'Default: "maybe"', "E2015"),
]
ROLLOUTS = [
    ("CanaryPercentage: 5", "CanaryPercentage: 50", "TrafficRoutingConfig is"),
    ("CanaryInterval: 15", "CanaryInterval: 1", "TrafficRoutingConfig is"),
    ("Type: TimeBasedCanary", "Type: AllAtOnce", "TrafficRoutingConfig is"),
    ("Type: !Ref Canary", "Type: AllAtOnce", "not by Canary"),
    ("        Alarms:\n", "        Alarm:\n", "Alarm: extra fields"),
    ("          - !Ref MemoryAlarm\n", "", "alarms that roll back are"),
    ("          - !Ref MemoryAlarm\n", "          - !Ref Faults\n", "alarms that roll back are"),
    ("  MemoryAlarm:\n", "  OtherAlarm:\n", "OtherAlarm"),
    ("MetricName: Errors", "MetricName: Invocations", "MetricName is 'Invocations'"),
    ('Value: !Sub "${Predict}:live"', 'Value: !Sub "${Predict}:prod"', "not the alias"),
    ("ExtendedStatistic: p99", "ExtendedStatistic: p50", "ExtendedStatistic is 'p50'"),
    (THRESHOLD, f"{THRESHOLD}0", "Threshold is"),
    ("TreatMissingData: notBreaching", "TreatMissingData: breaching", "TreatMissingData is"),
    ("$.status = 500 ||", "$.status = 200 ||", "not from the log by"),
    ("$.record.metrics.maxMemoryUsedMB", "$.record.metrics.memorySizeMB", "its value is"),
    ("LogGroupName: !Ref PredictLog", "LogGroupName: !Ref HealthLog", "Faults: read from"),
    ("      Period: 60\n", "      Period: 7\n", "7 is not"),
]
CASES = [(TABLE, *mutant) for mutant in MUTANTS] + [(ROLLOUT, *mutant) for mutant in ROLLOUTS]


@pytest.mark.parametrize(
    ("table", "text", "slip", "expected"),
    CASES,
    ids=[f"{text[:30]}-{slip[-30:]}" for _, text, slip, _ in CASES],
)
def test_a_mutant_is_rejected(table: limits.Limits, text: str, slip: str, expected: str) -> None:
    """A template with one mistake is rejected, and the complaint names it."""
    whole = generate.outputs(table)[PATH]

    assert whole.count(text) > 0
    found: list[str] = []
    for complaint in aws.template(whole.replace(text, slip, 1), table):
        found.append(complaint)
        if expected in complaint:  # the linters come last and take seconds
            return
    pytest.fail(f"{expected!r} is in none of {found}")


@pytest.mark.parametrize(
    "rollout",
    [
        pytest.param({"canary_percent": 0, "alarms": True}, marks=pytest.mark.slow),
        pytest.param({"canary_percent": 1, "alarms": False}, marks=pytest.mark.slow),
        {"canary_percent": 99, "canary_minutes": 1, "alarms": True},
    ],
    ids=str,
)
def test_each_rollout_is_accepted(rollout: dict[str, int | bool]) -> None:
    """The template of each rollout is linted without findings and does what the table says."""
    table = TABLE._replace(rollout=TABLE.rollout._replace(**rollout))

    assert list(aws.template(generate.outputs(table)[PATH], table)) == []


def test_disabled_features_are_not_deployed() -> None:
    """A table without a rollout deploys no alarm and no CodeDeploy; both cost money."""
    table = TABLE._replace(rollout=TABLE.rollout._replace(canary_percent=0, alarms=False))
    text = generate.outputs(table)[PATH]

    assert "CloudWatch" not in text
    assert "CodeDeploy" not in text
    assert "DeploymentPreference" not in text


def test_a_canary_of_more_than_two_days_is_rejected() -> None:
    """CodeDeploy ends a deployment after 2880 minutes."""
    table = ROLLOUT._replace(rollout=ROLLOUT.rollout._replace(canary_minutes=2881))
    complaint = next(aws.template(generate.outputs(table)[PATH], table))

    assert "rollout.canary_minutes is above 2880" in complaint
