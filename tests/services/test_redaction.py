"""Laws of redaction: no secret passes, in whatever form it comes; what says much stays."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.services.redaction import KnownSecrets, Redactor
from tests.conftest import fewer

CANARY = "c4naryXq7"  # every secret below holds it; it looks like nothing by itself
REDACTOR = Redactor(KnownSecrets())
PERSON = Redactor(
    KnownSecrets(
        secrets=frozenset({"hunter2", "abc"}),
        homes=frozenset({"/home/alice", "/mnt/people/alice"}),
        users=frozenset({"alice", "root", "al"}),
        host="gpu07.cluster.example.org",
        hosts=frozenset({"gpu08", "gpu07", "localhost", "10.1.2.3"}),
    )
)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{CANARY}@h/n",
        f"postgresql://me:p@{CANARY}@h:5432/n?sslmode=on",
        f"postgresql://me:p/{CANARY}:x@h/n",
        f"postgresql://me:{CANARY}",
        f"https://{CANARY}@example.org/x.git",
        f"postgresql://h/n?user=a&password={CANARY}&sslpassword={CANARY}",
        f"MY_API_KEY={CANARY}",
        f"export KEY={CANARY}",
        f"WANDB_API_KEY: {CANARY}",
        f"password = '{CANARY} with words {CANARY}'",
        f'{{"db_password": "{CANARY} b", "x": 1}}',
        f'"{{\\"access-key\\": \\"{CANARY}\\"}}"',
        f"token=b'{CANARY}'",
        f"client_secret={CANARY},{CANARY}",
        f"PASSWORD '{CANARY}'",
        f"passphrase:{CANARY}",
        f"serve --token {CANARY}",
        f"Authorization: Basic {CANARY}",
        f"{{'authorization': 'Token {CANARY}'}}",
        f"curl -H 'Bearer {CANARY}'",
        f"sk-{CANARY}",
        f"hf_{CANARY}",
        f"ghp_{CANARY}",
        f"github_pat_{CANARY}",
        f"glpat-{CANARY}",
        f"xoxb-{CANARY}",
        f"AIza{CANARY}{CANARY}{CANARY}",
        f"AKIA{CANARY.upper()}1234",
        f"eyJhbGciOiJI.{CANARY}.x-y_z",
        f"aws says wJalrXUtnFEMI/K7MDENG/{CANARY}CYEXAMPLEKEY.",
        f"somewhere {CANARY}Abcdefgh1234567890ABCDEFGHIJ",
        f"https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={CANARY}&x=1",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={CANARY}&X-Amz-Security-Token={CANARY}",
        f"https://storage.googleapis.com/b/k?X-Goog-Signature={CANARY}",
        f"https://a.blob.core.windows.net/c/k?sv=2024&sig={CANARY}%3D",
        f"https://s3/k?AWSAccessKeyId={CANARY}&Signature={CANARY}",
        f"Cookie: session={CANARY}; other={CANARY}",
        f"set-cookie: a=b; c={CANARY}",
        f"curl --cookie 'a={CANARY}' https://h",
        f"https://hooks.slack.com/services/T0/B0/{CANARY}",
        f"https://discord.com/api/webhooks/12/{CANARY}",
        f"https://x.webhook.office.com/webhookb2/{CANARY}@{CANARY}/IncomingWebhook/y",
        f"https://api.telegram.org/bot123456:{CANARY}/sendMessage",
        f"mysql -u me -p{CANARY} db",
        f"curl -u me:{CANARY} https://h",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\nthe log ends here",
    ],
)
def test_what_looks_like_a_secret_does_not_pass(text):
    for one in (text, f"before\n{text}\nafter", json.dumps([text]), repr(text), f"({text})"):
        told = REDACTOR.redact_text(one)
        assert CANARY.lower() not in told.lower()
        assert "***" in told
    assert REDACTOR.redact_text(f"before {text}").startswith("before ")


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3 of 10: loss 0.12, top1 91.25 %",
        "run 01hx: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "KeyError: 'layer1.0.conv1.weight'; Missing key(s) in state_dict",
        "code 488e62a3a3cd0c1ee5d9b0ba48a8e1b7f0aa0d7d6a2f8a6f9a8e1f6b1c2d3e4f",
        "postgresql+psycopg://me@h:5432/n, http://127.0.0.1:8000/x",
        'password authentication failed for user "locked"',
        "g++ -pthread -pipe -print -p8080 x.cpp -o x; git@github.com:a/b.git",
        "/opt/Python3/lib/python3.11/site-packages/torch/nn/modules/Conv2d.py",
        "error: unknown key `quant.wieght_bits`; known keys are weight_bits, act_bits",
    ],
)
def test_what_explains_a_fault_stays(text):
    assert REDACTOR.redact_text(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/alice", "~"),
        ("/home/alice/x.yaml", "~/x.yaml"),
        ("sqlite:////home/alice/.lsqctl/lsqctl.db", "sqlite:///~/.lsqctl/lsqctl.db"),
        ("/mnt/people/alice/x", "~/x"),
        ("/home/alice2/x and /Users/Bob/y", "/home/<user>/x and /Users/<user>/y"),
        ("/data/home/x", "/data/home/x"),
        ("/tmp/alice_lsq/run-Alice", "/tmp/<user>_lsq/run-<user>"),
        ("malice, alices, al and root", "malice, alices, al and root"),
        ("on gpu07.cluster.example.org, gpu07, GPU08", "on <host>, <host>, <host 3>"),
        ("at 10.1.2.3 and 10.1.2.34, localhost", "at <host 2> and 10.1.2.34, localhost"),
        ("Author: A <a.b@example.org>", "Author: A <<email>>"),
        ("xhunter2x, abc", "x***x, abc"),
        ("sk-hunter2-and-more, hunter2", "***, ***"),
        ("password=hunter2and more", "password=*** more"),
    ],
)
def test_names_and_homes_are_replaced_and_parts_of_words_are_not(text, told):
    assert PERSON.redact_text(text) == told


def test_values_are_redacted_wherever_they_stand_and_plain_keys_stay():
    facts = {"alice": ["alice", {"x": 1.5, "api_key": "plain", "seed": 3}], "/home/alice": None}
    told = {"alice": ["<user>", {"x": 1.5, "api_key": "***", "seed": 3}], "~": None}
    assert PERSON.redact_value(facts) == told


def test_nobody_is_known_and_nothing_is_replaced():
    empty = Redactor(
        KnownSecrets(users=frozenset({""}), homes=frozenset({"", "/", "////"}), host="")
    )
    assert empty.redact_text("a b /c") == "a b /c"


@given(st.text(alphabet="abAB01@:/=\"' -_.\n", max_size=80), st.sampled_from(["hunter2", "alice"]))
def test_what_is_known_never_passes_whatever_is_around_it(around, word):
    """A name may stand within a longer word; a secret may not."""
    told = PERSON.redact_text(f"{around} {word} {around}")
    assert word not in told


@pytest.mark.parametrize(
    "piece",
    fewer(
        ["token", "a", "aB1", "://a:", "://a", "password=", '"', "/home/", "key ", "-----BEGIN "], 4
    ),
)
def test_a_line_of_a_quarter_megabyte_takes_no_minute(piece):
    began = time.process_time()
    REDACTOR.redact_text(piece * (256 * 1024 // len(piece)))
    assert time.process_time() - began < 20
