"""The bill of materials of an image: SPDX 2.3 as JSON, from dpkg, from the wheels of CUDA and from Cargo.lock.

Used by assemble.py. Its time is SOURCE_DATE_EPOCH where that is set, so that equal inputs give equal bytes.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import tomllib

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def ask_dpkg(paths):
    """{path: (package, version, source package)} of the files that packages own."""
    # dpkg knows a file under the name it was packed with: /lib or /usr/lib.
    asked = {}
    for path in paths:
        real = os.path.realpath(path)
        for name in (path, real, re.sub(r"^/usr/lib", "/lib", real), "/usr" + path):
            asked.setdefault(name, path)
    # It fails where it does not know one of them, and tells of the others all the same.
    listed = subprocess.run(["dpkg-query", "-S", *asked], capture_output=True, text=True).stdout
    owners = {}
    for line in listed.splitlines():
        package, _, name = line.partition(": ")
        if name in asked:
            owners[asked[name]] = package.split(",")[0]
    shown = subprocess.run(["dpkg-query", "-W", "-f", "${binary:Package}\t${Package}\t${Version}\t${source:Package}\n",
                            *set(owners.values())], capture_output=True, text=True, check=True).stdout if owners else ""
    facts = {}
    for line in shown.splitlines():
        full, *rest = line.split("\t")
        facts[full] = facts[rest[0]] = tuple(rest)
    return {path: facts[package] for path, package in owners.items()}


def wheel_of(path):
    """(name, version, licence folder) of the Python wheel that brought a file, None where none did."""
    for info in pathlib.Path("/opt/tessera/cuda").glob("*.dist-info"):
        record = info / "RECORD"
        relative = os.path.relpath(os.path.realpath(path), info.parent)
        if record.exists() and any(line.split(",")[0] == relative for line in record.read_text().splitlines()):
            name, version = info.name.removesuffix(".dist-info").rsplit("-", 1)
            return name, version, info
    return None


def packages_of(files):
    """{name: facts} of everything that these files come from; a file of nowhere is an error."""
    found = {}
    # The certificates are put together at installation: no package lists that file.
    stand_in = {CERTIFICATES: "/usr/sbin/update-ca-certificates"}
    owners = ask_dpkg([stand_in.get(path, path) for path in files])
    for path in sorted(files):
        owner = owners.get(stand_in.get(path, path))
        if owner:
            name, version, source = owner
            found[name] = {"version": version, "source": source, "kind": "deb"}
            continue
        wheel = wheel_of(path)
        if wheel is None:
            raise SystemExit(f"assemble.py: nobody knows where {path} comes from")
        found[wheel[0]] = {"version": wheel[1], "source": wheel[0], "kind": "pypi", "info": wheel[2]}
    return found


def copy_licences(packages, tree, root):
    target = root / "usr/share/doc"
    for name, facts in packages.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        if facts["kind"] == "deb":
            shutil.copy(f"/usr/share/doc/{name}/copyright", target / name / "copyright")
            continue
        licences = [path for path in facts["info"].rglob("*") if re.match(r"(?i)licen[cs]e", path.name) and path.is_file()]
        if not licences:
            raise SystemExit(f"assemble.py: {name} has no licence file")
        shutil.copy(licences[0], target / name / "copyright")
    (target / "tessera").mkdir(parents=True, exist_ok=True)
    shutil.copy(tree / "LICENSE", target / "tessera/copyright")


def crates(tree):
    """(name, version, checksum) of the Rust crates that are linked into the coordinator."""
    for lock in sorted(tree.glob("coordinator/**/Cargo.lock")):
        for package in tomllib.loads(lock.read_text())["package"]:
            if "source" in package:
                yield package["name"], package["version"], package.get("checksum", "")


def identifier(text):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", text)


def entry(kind, name, version, purl, **more):
    return {"SPDXID": identifier(f"{kind}-{name}-{version}"), "name": name, "versionInfo": version,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                              "referenceLocator": purl}], **more}


def document(image, packages, tree):
    version = re.search(r"project\(tessera VERSION ([0-9.]+)", (tree / "CMakeLists.txt").read_text()).group(1)
    system = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    distribution = f"{system['ID']}-{system['VERSION_ID']}".replace('"', "")
    ours = entry("generic", f"tessera-{image}", version, f"pkg:generic/tessera-{image}@{version}")
    ours["licenseDeclared"] = "Apache-2.0"
    entries = [ours]
    for name, facts in sorted(packages.items()):
        if facts["kind"] == "deb":
            purl = (f"pkg:deb/{distribution.split('-')[0]}/{name}@{facts['version'].replace('+', '%2B').replace(':', '%3A')}"
                    f"?arch=amd64&distro={distribution}")
            entries.append(entry("deb", name, facts["version"], purl, sourceInfo=f"built from {facts['source']}"))
        else:
            entries.append(entry("pypi", name, facts["version"], f"pkg:pypi/{name.replace('_', '-')}@{facts['version']}"))
    if image == "coordinator":
        for name, crate, checksum in crates(tree):
            more = {"checksums": [{"algorithm": "SHA256", "checksumValue": checksum}]} if checksum else {}
            entries.append(entry("cargo", name, crate, f"pkg:cargo/{name}@{crate}", **more))
    when = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    body = {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"tessera-{image}-{version}",
            "creationInfo": {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", when), "creators": ["Tool: tessera-assemble"]},
            "packages": entries,
            "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                               "relatedSpdxElement": ours["SPDXID"]}] +
                             [{"spdxElementId": ours["SPDXID"], "relationshipType": "CONTAINS",
                               "relatedSpdxElement": one["SPDXID"]} for one in entries[1:]]}
    digest = hashlib.sha256(json.dumps(body["packages"]).encode()).hexdigest()
    body["documentNamespace"] = f"https://spdx.org/spdxdocs/tessera-{image}-{version}-{digest[:32]}"
    return json.dumps(body, indent=1) + "\n"
