"""Suites from the hub, against a server on this machine that speaks its protocol."""

import hashlib
import json
import os
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet
from werkzeug import Response

from specialize.errors import InputError
from specialize.evaluation.suites import hub, loading

SHA = "0123456789abcdef0123456789abcdef01234567"
GSM8K = [{"question": f"What is {n}?", "answer": f"{n}\n#### {n}"} for n in range(5)]

ASK = """
import sys
from specialize.errors import InputError
from specialize.evaluation.suites.loading import load_suite
try:
    suite = load_suite(
        "gsm8k", sys.argv[1], prompt=sys.argv[2], split="all", demonstrations=2
    )
    print(len(suite.examples), suite.examples[1].id, suite.examples[1].golds[0])
except InputError as error:
    print("refused:", error)
"""


def serve(server, repository, files):
    """Answers what `snapshot_download` asks about a dataset with these files."""
    listing = {"id": repository, "sha": SHA}
    listing["siblings"] = [{"rfilename": name} for name in files]
    server.expect_request(
        f"/api/datasets/{repository}/revision/main"
    ).respond_with_json(listing)
    server.expect_request(f"/api/datasets/{repository}/tree/{SHA}").respond_with_json(
        [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in files.items()
        ]
    )
    for name, content in files.items():
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": SHA,
            "Accept-Ranges": "bytes",
        }
        for method in ("HEAD", "GET"):
            server.expect_request(
                f"/datasets/{repository}/resolve/{SHA}/{name}", method=method
            ).respond_with_response(Response(content, headers=headers))


def ask(server, tmp_path, place, prompt="zero_shot_cot"):
    environment = os.environ | {
        "HF_ENDPOINT": server.url_for("").rstrip("/"),
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, place, prompt],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def lines(records):
    return ("\n".join(json.dumps(record) for record in records) + "\n").encode()


def test_a_dataset_in_our_layout_is_read(httpserver, tmp_path):
    files = {"gsm8k/test.jsonl": lines(GSM8K), "gsm8k/train.jsonl": lines(GSM8K)}
    serve(httpserver, "me/benchmarks", files)
    said = ask(httpserver, tmp_path, "hub:me/benchmarks", "few_shot_cot")
    assert said == "5 gsm8k-test-1 1"


def test_gsm8ks_own_parquet_becomes_its_json_lines(httpserver, tmp_path):
    shard = tmp_path / "shard.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(GSM8K), shard)
    content = shard.read_bytes()
    serve(
        httpserver,
        "openai/gsm8k",
        {
            "main/test-00000-of-00001.parquet": content,
            "main/train-00000-of-00001.parquet": content,
        },
    )
    said = ask(httpserver, tmp_path, "hub:openai/gsm8k", "few_shot_cot")
    assert said == "5 gsm8k-test-1 1"


def test_what_the_hub_does_not_have_is_refused(httpserver, tmp_path):
    httpserver.expect_request("/api/datasets/me/none/revision/main").respond_with_json(
        {"error": "Repository not found"},
        status=404,
        headers={"X-Error-Code": "RepoNotFound"},
    )
    said = ask(httpserver, tmp_path, "hub:me/none")
    assert said.startswith("refused: hub:me/none: the hub has no such dataset")


def test_no_network_is_one_clear_refusal(httpserver, tmp_path):
    url = httpserver.url_for("")
    httpserver.stop()
    try:

        class Gone:
            def url_for(self, path):
                return url

        said = ask(Gone(), tmp_path, "hub:openai/gsm8k")
    finally:
        httpserver.start()
    assert said.startswith("refused: hub:openai/gsm8k cannot be downloaded")
    assert "give a folder with the owners' files" in said


def test_a_name_that_is_no_datasets_is_refused():
    with pytest.raises(InputError, match="is not the name of a dataset"):
        hub.resolve("hub:a/b/c d", "gsm8k")
    with pytest.raises(InputError, match="does not exist"):
        loading.load_suite("gsm8k", "openai/gsm8k", split="all")
