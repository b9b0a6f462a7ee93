"""Python's huggingface_hub on a cache that accel filled, and the other way round.

hub_client.py scan CACHE            what is in the cache
hub_client.py find REPO             where a model that is there lies, without asking anybody
hub_client.py pull REPO             fetch a model
hub_client.py hold FILE             hold a blob's lock until the input ends
"""

import json
import sys

import filelock
import huggingface_hub as hub


def scan(cache):
    info = hub.scan_cache_dir(cache)
    assert not info.warnings, info.warnings
    return {r.repo_id: {v.commit_hash: {"refs": sorted(v.refs), "size": v.size_on_disk, "files": sorted(str(f.file_name) for f in v.files)} for v in r.revisions} for r in info.repos}


def find(repo):
    return hub.snapshot_download(repo, local_files_only=True)


def pull(repo):
    files = [f.rfilename for f in hub.model_info(repo, revision="main").siblings]
    for file in files:
        hub.hf_hub_download(repo, file)
    return find(repo)


def hold(file):
    with filelock.FileLock(file):
        print("held", flush=True)
        sys.stdin.read()
    return None


print(json.dumps({"scan": scan, "find": find, "pull": pull, "hold": hold}[sys.argv[1]](sys.argv[2])))
