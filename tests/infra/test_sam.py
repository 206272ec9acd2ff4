"""The deployed SAM template: transformed, with parameters and conditions evaluated."""

from typing import Any

import pytest
from support.service import ROOT

from infra import sam

DOCUMENT = sam.load((ROOT / "infra/aws/template.yaml").read_text())


def permissions(plain: sam.Document) -> dict[str, dict[str, Any]]:
    """Return what everybody is permitted to do, by resource."""
    return {
        name: body["Properties"]
        for name, body in plain["Resources"].items()
        if body["Type"] == "AWS::Lambda::Permission" and body["Properties"]["Principal"] == "*"
    }


def test_an_open_url_has_both_permissions() -> None:
    """With NONE everybody may call both URLs: two permissions each, on the URL's own resource."""
    plain = sam.deployed(DOCUMENT, {"UrlAuth": "NONE"})
    found = list(permissions(plain).values())
    alias, health = {"Ref": "PredictAliaslive"}, {"Ref": "Health"}
    by_url = {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"}
    invoke = {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True}

    assert len(found) == 4
    for target in (alias, health):
        for permitted in (by_url, invoke):
            assert {**permitted, "Principal": "*", "FunctionName": target} in found
    urls = {name: plain["Resources"][name]["Properties"] for name in ("PredictUrl", "HealthUrl")}
    assert urls["PredictUrl"] == {"TargetFunctionArn": alias, "AuthType": "NONE"}
    assert urls["HealthUrl"] == {"TargetFunctionArn": health, "AuthType": "NONE"}


@pytest.mark.parametrize("values", [{}, {"UrlAuth": "AWS_IAM"}], ids=str)
def test_a_closed_url_permits_nobody(values: dict[str, str]) -> None:
    """With AWS_IAM, the default, there is no permission, and health does not ask predict."""
    plain = sam.deployed(DOCUMENT, values)

    assert permissions(plain) == {}
    assert not [body for body in plain["Resources"].values() if "Permission" in body["Type"]]
    assert (
        plain["Resources"]["Health"]["Properties"]["Environment"]["Variables"]["PREDICT_URL"] == ""
    )


def test_the_permissions_equal_those_of_sam() -> None:
    """For a literal AuthType SAM creates the same resources, under the same names."""
    text = (ROOT / "infra/aws/template.yaml").read_text()
    literal = sam.load(text.replace("AuthType: !Ref UrlAuth", "AuthType: NONE"))
    kept = literal["Resources"].items()
    literal["Resources"] = {k: v for k, v in kept if v["Type"] != "AWS::Lambda::Permission"}
    own = permissions(sam.deployed(literal, {"UrlAuth": "NONE"}))

    assert len(own) == 4
    assert own == permissions(sam.deployed(DOCUMENT, {"UrlAuth": "NONE"}))


def test_conditions_are_evaluated_as_in_cloudformation() -> None:
    """References, substitutions and every kind of condition are evaluated."""
    conditions = {
        "A": {"Fn::Equals": [{"Ref": "P"}, "a"]},
        "NotA": {"Fn::Not": [{"Condition": "A"}]},
        "Both": {"Fn::And": [{"Condition": "A"}, {"Condition": "NotA"}]},
        "Either": {"Fn::Or": [{"Condition": "A"}, {"Condition": "NotA"}]},
    }
    properties = {
        "One": {"Fn::If": ["A", {"Ref": "P"}, "b"]},
        "Two": {"Fn::If": ["NotA", {"Ref": "P"}, {"Ref": "AWS::NoValue"}]},
        "Three": {"Fn::Sub": "${P}-${AWS::Region}"},
        "Four": {"Fn::Sub": "${P}"},
        "Five": [{"Ref": "AWS::NoValue"}, {"Ref": "Topic"}],
        "Policy": {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
    }
    resource = {"Type": "AWS::SNS::Topic", "Properties": properties}
    document = {
        "Parameters": {"P": {"Type": "String", "Default": "a"}},
        "Conditions": conditions,
        "Resources": {
            name: {**resource, "Condition": name} for name in ("A", "NotA", "Both", "Either")
        },
    }
    found = sam.deployed(document)["Resources"]

    assert set(found) == {"A", "Either"}
    assert set(sam.deployed(document, {"P": "b"})["Resources"]) == {"NotA", "Either"}
    assert found["A"]["Properties"] == {
        "One": "a",
        "Three": {"Fn::Sub": "a-${AWS::Region}"},
        "Four": "a",
        "Five": [{"Ref": "Topic"}],
        "Policy": {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
    }


def test_no_secret_is_a_parameter() -> None:
    """CloudFormation gets the name of a secret and reads its values when it deploys."""
    resources = sam.deployed(DOCUMENT, {"Secret": "mine"})["Resources"]
    variables = {
        name: resources[name]["Properties"]["Environment"]["Variables"]
        for name in ("Predict", "Health")
    }

    assert not [body for body in DOCUMENT["Parameters"].values() if body.get("NoEcho")]
    assert (
        variables["Predict"]["API_KEYS"] == "{{resolve:secretsmanager:mine:SecretString:API_KEYS}}"
    )
    assert variables["Health"]["PREDICT_KEY"].endswith(":mine:SecretString:PREDICT_KEY}}")
