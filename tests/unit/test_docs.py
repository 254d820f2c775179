"""What the documentation shows can be copied: policies, settings, commands, requests, links."""

import json
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from agent import __main__ as agent_main
from agent import settings as agent_settings
from agent.workloads import consul
from controlplane import __main__ as controlplane_main
from controlplane.api.state_catalog import VIEWS
from controlplane.cli import __main__ as meshctl
from controlplane.cli.commands.catalogue import COMMANDS
from controlplane.cli.completion import Level, tree
from controlplane.policy.admission import Admitted, admit
from controlplane.policy.manifests import load_documents
from controlplane.settings import Settings
from tests.support import documents
from tests.support.documents import Block

MANIFESTS = [
    *((block, block.text) for block in documents.blocks("yaml")),
    *((block, text) for block in documents.blocks("sh") for text in documents.heredocs(block) if "apiVersion:" in text),
]
MESHCTL = documents.calls("meshctl")
LEVELS = {level.path: level for level in tree()}


def test_there_is_something_to_check() -> None:
    pages = {documents.name_of(page) for page in documents.pages()}
    assert {"README.md", "docs/features/routing.md", "docs/operations/apply.md", "deploy/README.md"} <= pages
    assert len(MANIFESTS) >= 5
    assert len(MESHCTL) >= 15
    assert len(documents.links()) >= 20


@pytest.mark.parametrize(("block", "text"), MANIFESTS, ids=[str(block) for block, _ in MANIFESTS])
def test_every_manifest_is_admitted(block: Block, text: str) -> None:
    found = load_documents(text, source=str(block))
    assert found
    for document in found:
        admission = admit(document.value)
        assert isinstance(admission, Admitted), admission
        assert not admission.warnings


@pytest.mark.parametrize(("block", "arguments"), MESHCTL, ids=[f"{b}-{' '.join(words)}" for b, words in MESHCTL])
def test_every_meshctl_command_is_one(block: Block, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own parser takes it; nothing is run."""
    for command in COMMANDS.values():
        monkeypatch.setattr(import_module(command.module), "run", lambda _: 0)
    assert meshctl._run(arguments) == 0


@pytest.mark.parametrize(("page", "text"), documents.inline("meshctl"))
def test_every_meshctl_command_in_a_sentence_names_a_command_and_its_flags(page: str, text: str) -> None:
    words = text.replace("[", " ").replace("]", " ").split()[1:]
    level = _level(words)
    known = {name for flag in (*level.flags, *LEVELS[""].flags) for name in flag.names}
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert flags <= known, f"{page}: {text}"


def _level(words: list[str]) -> Level:
    for length in (2, 1):
        found = LEVELS.get(" ".join(words[:length]))
        if found is not None:
            return found
    raise AssertionError(f"meshctl {' '.join(words)} is no command")


def test_every_call_of_the_programs_is_taken_by_their_parsers() -> None:
    calls = documents.calls("gossamer-controlplane")
    assert calls
    for _, arguments in calls:
        controlplane_main._parser().parse_args(arguments)
    calls = documents.calls("gossamer-agent")
    assert calls
    for _, arguments in calls:
        agent_main.parse(arguments)


def test_every_flag_in_a_sentence_exists() -> None:
    """It belongs to some program of the mesh, to etcd, or to Envoy."""
    known = set(controlplane_main._parser()._option_string_actions) | set(agent_main.FLAGS) | {"--config", "--check"}
    known |= {name for level in LEVELS.values() for flag in level.flags for name in flag.names}
    known |= {"--max-txn-ops", "--max-request-bytes", "--quota-backend-bytes", "--mode"}
    others = ("python -m bench", "pip", "make", "kubectl", "curl", "docker", "systemd")
    for page, text in documents.quoted():
        flags = {word.partition("=")[0] for word in text.split() if word.startswith("--")}
        assert flags <= known or text.startswith(others), f"{page}: {text}"


def test_every_agent_file_is_taken(tmp_path: Path) -> None:
    texts = [block.text for block in documents.blocks("toml")]
    texts += [text for block in documents.blocks("sh") for text in documents.heredocs(block) if "[node]" in text]
    assert texts
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.toml"
        path.write_text(_completed(text))
        agent_settings.load(path, {})


def _completed(text: str) -> str:
    """An excerpt with the keys that must be there."""
    tables = tomllib.loads(text)
    missing = {"node": 'name = "n"\naddress = "192.0.2.1"', "control_plane": 'address = "192.0.2.2:18000"'}
    return "".join(f"[{name}]\n{keys}\n" for name, keys in missing.items() if name not in tables) + text


def test_every_key_of_the_agents_file_is_documented() -> None:
    page = (documents.ROOT / "deploy" / "README.md").read_text()
    table = page[page.index("### Every key of agent.toml") :]
    for name, section in agent_settings.SECTIONS.items():
        for key in section.__dataclass_fields__:
            written = key.removesuffix("_s")
            assert f"`{written}`" in table, f"{name}.{written}"


def test_every_registration_is_taken() -> None:
    bodies = [
        json.loads(arguments[arguments.index("-d") + 1])
        for _, arguments in documents.calls("curl")
        if "-d" in arguments and any("/v1/agent/service/register" in word for word in arguments)
    ]
    assert bodies
    for body in bodies:
        assert consul.read(body).name == body["Name"]


def test_every_state_view_is_documented() -> None:
    page = (documents.ROOT / "docs" / "features" / "api.md").read_text()
    for view in VIEWS.values():
        assert f"`{view.path.partition('/')[0]}" in page, view.path


FEATURES = documents.ROOT / "docs" / "features"


def _features() -> list[str]:
    """The pages of the index's first table."""
    table = (FEATURES / "README.md").read_text().split("\n\n")[2]
    rows = [row.strip("|").split("|") for row in table.splitlines()[2:]]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    return [row[3].strip().rpartition("](")[2].rstrip(")") for row in rows]


def test_the_index_of_features_has_every_page() -> None:
    index = (FEATURES / "README.md").read_text()
    assert len(_features()) >= 18
    for page in FEATURES.glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("name", _features())
def test_every_feature_has_a_policy_a_look_its_limits_and_envoys_words(name: str) -> None:
    page = (FEATURES / name).read_text()
    own = [block for block, text in MANIFESTS if block.file.endswith(f"features/{name}") and "kind:" in text]
    assert own, "a policy to paste"
    seeing = page.partition("**Seeing it.**")[2].partition("**Limits.**")[0]
    assert "```sh\n" in seeing, "a command that shows it"
    limits = page.partition("**Limits.**")[2]
    assert len(limits.partition("\n\n")[0].split()) >= 8, "its limits"
    assert "\nEnvoy: " in limits, "its words in Envoy's configuration"


def test_every_link_leads_somewhere() -> None:
    for page, target in documents.links():
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{documents.name_of(page)}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor in documents.anchors(found), f"{documents.name_of(page)}: {target}"


def test_the_settings_that_the_control_plane_knows_are_flags() -> None:
    flags = controlplane_main._parser()._option_string_actions
    for name in Settings.model_fields:
        assert name == "mesh" or f"--{name.replace('_', '-')}" in flags
