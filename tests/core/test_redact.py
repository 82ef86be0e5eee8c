"""Secrets that are recognised, and texts that stay."""

import pytest

from convloop.core.redact import redact, redact_values


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://ann:hunter2@host/x", "https://***@host/x"),
        ("s3://KEYID:p%40ss@bucket/mine", "s3://***@bucket/mine"),
        ("https://ann:p@ss@host/x", "https://***@host/x"),
        ("git clone https://ghp_abc@host/x.git", "git clone https://***@host/x.git"),
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2"),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x?X-Amz-Signature=***"),
        ("<a href='https://host/x?a=1&amp;api_key=abc'>", "<a href='https://host/x?a=1&amp;api_key=***'>"),
        ("+password = 'correct horse'", "+password = '***'"),
        ('{"db_password": "abcd1234"}', '{"db_password": "***"}'),
        ("export API_TOKEN=abcd1234", "export API_TOKEN=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nabc\ncut", "***"),
    ],
)
def test_secret_is_marked(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.org",
        "git@host:ann/x.git",
        "sqlite:////work/mlruns/mlflow.db",
        "https://host:8080/path?width=3#a",
        "tokens = next(reader)",
        "def read(token: str) -> None:",
        "monkey = 'banana'",
        "train.keep: best",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", ["DB_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "API_KEY", "apikey"])
def test_value_of_a_secret_variable_is_marked_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter 2/&")
    assert redact("a hunter 2/& b hunter%202%2F%26 c hunter 2/&amp; d") == "a *** b *** c *** d"


def test_password_in_the_url_of_any_variable_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVER", "postgresql://ann:hun%40ter@host/db")
    assert redact("login with hun@ter failed") == "login with *** failed"


def test_values_of_plain_variables_and_short_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert redact("qwertyuiop false") == "qwertyuiop false"


def test_numbers_stay_numbers() -> None:
    assert redact_values({"a": 1, "b": 0.5, "c": "x://u:p@h", "d": True}) == {
        "a": 1,
        "b": 0.5,
        "c": "x://***@h",
        "d": True,
    }
