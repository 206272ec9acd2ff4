"""The SAM template: each slip is rejected."""

import pytest
from mutants import complaints

MUTANTS = [
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySize: 20480", "is not 128 to 10240"),
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySize: 256", "MemorySize is 256, not 512"),
    ("infra/aws/template.yaml", "MemorySize: 512", "MemorySise: 512", "MemorySise"),
    ("infra/aws/template.yaml", "Runtime: python3.13", "Runtime: python3.1", "python3.1"),
    ("infra/aws/template.yaml", "Timeout: 60", "Timeout: 6000", "6000"),
    ("infra/aws/template.yaml", "AuthType: !Ref UrlAuth", "AuthType: OPEN", "AWS_IAM or NONE"),
    ("infra/aws/template.yaml", "rate(10 minutes)", "rate(10 minute)", "rate(10 minute)"),
    ("infra/aws/template.yaml", "Attempts: 0", "Attempts: 9", "MaximumRetryAttempts must be 0"),
    (
        "infra/aws/template.yaml",
        "      AutoPublishAlias: live\n",
        "      AutoPublishAlias: live\n      Policies: [AdministratorAccess]\n",
        "a managed policy beyond",
    ),
    ("infra/aws/template.yaml", "      Layers: [!Ref Layer]\n", "", "Layers are None"),
    ("infra/aws/template.yaml", "!Ref Layer]", "!Ref Lair]", "Lair"),
]


@pytest.mark.parametrize(("path", "text", "slip", "said"), MUTANTS, ids=lambda part: part[:40])
def test_a_mutant_is_rejected(path: str, text: str, slip: str, said: str) -> None:
    """A template with one slip in it is rejected, and the complaint names the slip."""
    found = complaints(path, text, slip)

    assert any(said in complaint for complaint in found), found
