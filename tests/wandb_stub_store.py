"""What a W&B server keeps, and what it answers of it to wandb 0.31's GraphQL questions: no more than runs need."""

import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping

import yaml
from tests.wandb_stub_records import Json, StubArtifact, StubRun, StubSweep

WHEN = "2026-01-01T00:00:00Z"


class StubStore:
    """All that came to the server, and its answers; not safe to be called by two threads at once.

    Attributes:
        uploads: bytes by the path they were put at.
        asked: names of the GraphQL questions, in their order.
    """

    def __init__(self, url: str, entity: str) -> None:
        self.url = url
        self.entity = entity
        self.runs: dict[str, StubRun] = {}
        self.artifacts: dict[str, StubArtifact] = {}
        self.sweeps: dict[str, StubSweep] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._clients: dict[str, str] = {}  # ids that clients made up for artifacts, and ours
        self._arrivals: dict[str, Callable[[bytes], None]] = {}

    def run(self, entity: str | None, project: str | None, name: str) -> StubRun:
        path = (entity or self.entity, project or "uncategorized", name)
        return self.runs.setdefault(name, StubRun(name, path))

    def put(self, path: str, content: bytes) -> None:
        self.uploads[path] = content
        if path in self._arrivals:
            self._arrivals[path](content)

    def upload_url(self, path: str, arrived: Callable[[bytes], None] | None = None) -> str:
        if arrived is not None:
            self._arrivals[path] = arrived
        return f"{self.url}/storage/{path}"

    def artifact(self, name: str) -> StubArtifact | None:
        """By collection and alias or version, as `digits:best` or `digits:v0`."""
        collection, _, alias = name.partition(":")
        for each in self.artifacts.values():
            if each.name == collection and each.committed and (alias in each.aliases or alias == f"v{each.version}"):
                return each
        return None

    def answer(self, operation: str, given: Json) -> Json:
        """The data that answers a GraphQL question.

        Raises:
            LookupError: no such question is known.
        """
        self.asked.append(operation)
        if not hasattr(self, f"_answer_{operation}"):
            raise LookupError(f"no answer to {operation}")
        answer: Json = getattr(self, f"_answer_{operation}")(given)
        return answer

    # ------------------------------------------------------------------------------------------------------- server

    def _answer_Viewer(self, given: Json) -> Json:
        return {
            "viewer": {
                "id": "viewer",
                "entity": self.entity,
                "username": self.entity,
                "email": "somebody@example.com",
                "flags": "{}",
                "teams": {"edges": [{"node": {"name": self.entity}}]},
            }
        }

    _answer_GetDefaultEntity = _answer_Viewer

    def _answer_ServerFeaturesQuery(self, given: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def _answer_OrganizationCoreWeaveOrganizationID(self, given: Json) -> Json:
        return {"entity": {"organization": None}}

    # --------------------------------------------------------------------------------------------------------- runs

    def _answer_UpsertBucket(self, given: Json) -> Json:
        inserted = given["name"] not in self.runs
        run = self.run(given.get("entity"), given.get("project"), given["name"])
        run.told |= {key: value for key, value in given.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: StubRun) -> Json:
        return {
            "id": f"bucket-{run.name}",
            "name": run.name,
            "displayName": run.display_name,
            "description": None,
            "config": run.told.get("config", "{}"),
            "sweepName": run.told.get("sweep"),
            "project": self._project(*run.path[:2]),
            "historyLineCount": len(run.history),
        }

    def _project(self, entity: str, project: str) -> Json:
        owner = {"id": f"entity-{entity}", "name": entity}
        return {"id": f"project-{project}", "internalId": f"project-{project}", "name": project, "entity": owner}

    def _answer_RunResumeStatus(self, given: Json) -> Json:
        run = self.runs.get(given["name"])
        project = self._project(given["entity"] or self.entity, given["project"])
        return {"model": {**project, "bucket": None if run is None else self._left_off(run)}}

    def _left_off(self, run: StubRun) -> Json:
        history, events = run.lines("wandb-history.jsonl"), run.lines("wandb-events.jsonl")
        return {
            **self._bucket(run),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "eventsLineCount": len(events),
            "logLineCount": len(run.lines("output.log")),
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.told.get("tags", []),
            "notes": run.told.get("notes"),
            "wandbConfig": '{"t": 1}',
        }

    def _answer_CreateRunFiles(self, given: Json) -> Json:
        run = self.run(given["entity"], given["project"], given["run"])
        files = [{"name": name, "uploadUrl": self._run_file(run, name)} for name in given["files"]]
        return {"createRunFiles": {"runID": f"bucket-{run.name}", "uploadHeaders": [], "files": files}}

    def _run_file(self, run: StubRun, name: str) -> str:
        def arrived(content: bytes) -> None:
            run.files[name] = content

        return self.upload_url(f"runs/{run.name}/{name}", arrived)

    def _answer_NotifyScriptableRunAlert(self, given: Json) -> Json:
        self.run(given["entityName"], given["projectName"], given["runName"]).alerts.append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    # ---------------------------------------------------------------------------------------------------- artifacts

    def _answer_CreateArtifact(self, given: Json) -> Json:
        said = given["input"]
        collection = said["artifactCollectionName"]
        path = (said["entityName"], said["projectName"], collection)
        versions = [each for each in self.artifacts.values() if each.path == path and each.committed]
        aliases = [each["alias"] for each in said.get("aliases") or ()]
        same = [each for each in versions if each.digest == said["digest"]]
        made = StubArtifact(
            id=same[0].id if same else f"artifact-{len(self.artifacts)}",
            path=path,
            type=said["artifactTypeName"],
            digest=said["digest"],
            run=said["runName"],
            aliases=aliases,
            metadata=json.loads(said.get("metadata") or "{}"),
        )
        artifact = self.artifacts.setdefault(made.id, made)
        if same:
            self._alias(artifact, aliases)
        self._clients[said["clientID"]] = artifact.id
        latest = {"id": versions[-1].id, "versionIndex": versions[-1].version} if versions else None
        state = "COMMITTED" if same else "PENDING"
        told = {"id": artifact.id, "state": state, "artifactSequence": {"id": collection, "latestArtifact": latest}}
        return {"createArtifact": {"artifact": told}}

    def _alias(self, artifact: StubArtifact, aliases: list[str]) -> None:
        """Give an artifact aliases, which others of its collection lose."""
        for other in self.artifacts.values():
            if other is not artifact and other.path == artifact.path:
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))

    def _answer_ClientIDMapping(self, given: Json) -> Json:
        mapped = self._clients.get(given["clientID"])
        return {"clientIDMapping": {"serverID": mapped} if mapped else None}

    def _answer_CreateArtifactManifest(self, given: Json) -> Json:
        manifest = {"id": f"manifest-{given['artifactID']}", "file": self._manifest(given["artifactID"], given)}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _answer_UpdateArtifactManifest(self, given: Json) -> Json:
        artifact = given["artifactManifestID"].removeprefix("manifest-")
        manifest = {"id": given["artifactManifestID"], "file": self._manifest(artifact, given)}
        return {"updateArtifactManifest": {"artifactManifest": manifest}}

    def _manifest(self, artifact: str, given: Json) -> Json:
        url = self.upload_url(f"artifacts/{artifact}/manifest.json")
        return {"id": f"manifest-file-{artifact}", "uploadUrl": url, "uploadHeaders": [], "directUrl": url}

    def _answer_CreateArtifactFiles(self, given: Json) -> Json:
        files = []
        for each in given["input"]["artifactFiles"]:
            storage = f"artifacts/{each['artifactID']}/files/{each['name']}"
            url = self.upload_url(storage)
            told = {"storagePath": storage, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            files.append({"node": {**told, "name": each["name"], "artifact": {"id": each["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": files}}}

    def _answer_CommitArtifact(self, given: Json) -> Json:
        artifact = self.artifacts[given["artifactID"]]
        versions = [each for each in self.artifacts.values() if each.path == artifact.path and each.committed]
        artifact.version = len(versions)
        entries = json.loads(self.uploads[f"artifacts/{artifact.id}/manifest.json"])["contents"]
        artifact.files = {name: self._content(entry["digest"]) for name, entry in entries.items() if "ref" not in entry}
        self._alias(artifact, [*artifact.aliases, "latest"])
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _content(self, digest: str) -> bytes:
        """A file by its hash: what an earlier version holds already isn't uploaded again."""
        for path, content in self.uploads.items():
            if path.startswith("artifacts/") and base64.b64encode(hashlib.md5(content).digest()).decode() == digest:
                return content
        raise AssertionError(f"no file of digest {digest} was uploaded")

    def _answer_ArtifactType(self, given: Json) -> Json:
        artifact = self.artifact(given["name"])
        found = None if artifact is None else {"artifactType": {"name": artifact.type}}
        return {"project": {"artifact": found}}

    def _answer_ArtifactMembershipByName(self, given: Json) -> Json:
        artifact = self.artifact(given["name"])
        membership = None if artifact is None else self._membership(artifact)
        return {"project": {"artifactCollectionMembership": membership}}

    def _membership(self, artifact: StubArtifact) -> Json:
        collection = {
            "__typename": "ArtifactSequence",
            "name": artifact.name,
            "project": self._project(*artifact.path[:2]),
        }
        aliases = [{"__typename": "ArtifactAlias", "id": alias, "alias": alias} for alias in artifact.aliases]
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"member-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": WHEN,
            "aliases": aliases,
            "artifactCollection": collection,
            "artifact": {
                "__typename": "Artifact",
                "id": artifact.id,
                "artifactSequence": collection,
                "versionIndex": artifact.version,
                "artifactType": {"name": artifact.type},
                "description": None,
                "metadata": json.dumps(artifact.metadata),
                "ttlDurationSeconds": -2,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": None,
                "state": "COMMITTED",
                "size": sum(map(len, artifact.files.values())),
                "digest": artifact.digest,
                "digestAlgorithm": "MANIFEST_MD5",
                "commitHash": "0",
                "fileCount": len(artifact.files),
                "createdAt": WHEN,
                "updatedAt": WHEN,
                "aliases": [{**alias, "artifactCollection": collection} for alias in aliases],
            },
        }

    def _answer_ArtifactByID(self, given: Json) -> Json:
        artifact = self.artifacts.get(given["id"])
        return {"artifact": None if artifact is None else self._membership(artifact)["artifact"]}

    def _answer_FetchArtifactManifest(self, given: Json) -> Json:
        return {"artifact": {"currentManifest": {"file": self._manifest(given["id"], given)}}}

    _answer_ArtifactManifest = _answer_FetchArtifactManifest

    def _answer_GetArtifactMembershipFileUrls(self, given: Json) -> Json:
        artifact = self.artifact(f"{given['collection']}:{given['alias']}")
        assert artifact is not None
        files = [
            {"__typename": "File", "name": name, "directUrl": self._file_url(artifact, name)} for name in artifact.files
        ]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": page, "edges": [{"node": file} for file in files]}}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": membership}
        return {"project": {"artifactCollection": collection}}

    def _file_url(self, artifact: StubArtifact, name: str) -> str:
        path = f"downloads/{artifact.id}/{name}"
        self.uploads[path] = artifact.files[name]
        return self.upload_url(path)

    def _answer_UseArtifact(self, given: Json) -> Json:
        said = given.get("input", given)
        artifact = self.artifacts[said["artifactID"]]
        self.run(said["entityName"], said["projectName"], said["runName"]).used.append(artifact.id)
        return {"useArtifact": {"artifact": self._membership(artifact)["artifact"]}}

    # ------------------------------------------------------------------------------------------------------- sweeps

    def _answer_UpsertSweep(self, given: Json) -> Json:
        name = f"sweep{len(self.sweeps)}"
        config = yaml.safe_load(given["config"])
        path = (given["entityName"] or self.entity, given["projectName"] or "uncategorized", name)
        self.sweeps[name] = StubSweep(name, path, config, _grid(config["parameters"]))
        told = {"name": name, "project": self._project(*path[:2])}
        return {"upsertSweep": {"sweep": told, "configValidationWarnings": []}}

    def _answer_SweepWithRuns(self, given: Json) -> Json:
        sweep = self.sweeps[given["sweep"]]
        told = {"id": sweep.name, "name": sweep.name, "method": sweep.config["method"], "state": "RUNNING"}
        return {"project": {"sweep": {**told, "config": yaml.safe_dump(sweep.config), "runs": {"edges": []}}}}

    def _answer_CreateAgent(self, given: Json) -> Json:
        sweep = self.sweeps[given["sweep"]]
        agent = f"{sweep.name}-agent{len(sweep.agents)}"
        sweep.agents.append(agent)
        return {"createAgent": {"agent": {"id": agent}}}

    def _answer_Heartbeat(self, given: Json) -> Json:
        """An agent that has nothing to do gets the next combination; after the last it is sent home."""
        sweep = self.sweeps[given["id"].partition("-")[0]]
        commands: list[Json] = []
        if not json.loads(given["runState"]):
            if sweep.jobs:
                sweep.runs.append(f"{sweep.name}run{len(sweep.runs)}")
                options = {key: {"value": value} for key, value in sweep.jobs.pop(0).items()}
                program = sweep.config.get("program", "")
                commands = [{"type": "run", "run_id": sweep.runs[-1], "program": program, "args": options}]
            else:
                commands = [{"type": "exit"}]
        told = {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": told}


def _grid(parameters: Mapping[str, Json]) -> list[Json]:
    choices = [each["values"] if "values" in each else [each["value"]] for each in parameters.values()]
    return [dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product(*choices)]
