"""Every pod passes the restricted profile of Pod Security Standards, and what else a cluster's policies ask for.

The profile is written here as plain rules, from https://kubernetes.io/docs/concepts/security/pod-security-standards, and the
test plants a violation of each.
"""

import copy
import unittest

from rendering import EVERYTHING, RENDERED, objects, pod_templates

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")
# What lies outside the profile, by what the values say: see the chart's warnings.
HOST_PATH_EXAMPLES = {"llama-3.1-405b-fp8-tp8.yaml"}


def containers(pod):
    return pod["containers"] + pod.get("initContainers", [])


def restricted(pod):
    """Complaints of the restricted profile, with those of the baseline."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(key)]
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        found += [f"volume {volume['name']}: {kind}" for kind in kinds - VOLUMES]
    of_pod = pod.get("securityContext", {})
    found += [f"sysctl {one['name']}" for one in of_pod.get("sysctls", [])]
    for container in containers(pod):
        name, own = container["name"], container.get("securityContext", {})
        both = {**of_pod, **own}
        if own.get("privileged"):
            found.append(f"{name}: privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{name}: capabilities are not dropped")
        added = set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}
        found += [f"{name}: adds {one}" for one in sorted(added)]
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            found.append(f"{name}: may be root")
        if both.get("seccompProfile", {}).get("type") not in SECCOMP:
            found.append(f"{name}: seccomp")
        found += [f"{name}: host port" for port in container.get("ports", []) if port.get("hostPort")]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if container.get(probe, {}).get("httpGet", {}).get("host") or container.get(probe, {}).get("tcpSocket", {}).get("host"):
                found.append(f"{name}: {probe} names a host")
    return found


def house(pod):
    """What policies ask for besides."""
    found = []
    if pod.get("automountServiceAccountToken") is not False:
        found.append("mounts a token")
    for container in containers(pod):
        name = container["name"]
        if container["securityContext"].get("readOnlyRootFilesystem") is not True:
            found.append(f"{name}: the root file system can be written")
        if not container["resources"].get("requests", {}).get("cpu") or not container["resources"].get("limits", {}).get("memory"):
            found.append(f"{name}: no CPU request or memory limit")
        if container["image"].endswith(":latest") or ":" not in container["image"].rsplit("/", 1)[-1]:
            found.append(f"{name}: image {container['image']} can change")
    for volume in pod.get("volumes", []):
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            found.append(f"{volume['name']}: no limit")
    return found


class PolicyTest(unittest.TestCase):
    def pods(self, *arguments, **more):
        found = list(pod_templates(objects(*arguments, **more)))
        self.assertGreaterEqual(len(found), 3)
        return [(what, pod) for what, _, _, pod in found]

    def test_restricted(self):
        for values in [None, EVERYTHING, *RENDERED]:
            for what, pod in self.pods(values):
                with self.subTest(values=values and values.name, pod=what):
                    complaints = restricted(pod)
                    if values and values.name in HOST_PATH_EXAMPLES:
                        complaints = [one for one in complaints if one != "volume model: hostPath"]
                    self.assertEqual(complaints + house(pod), [])

    def test_what_is_outside_is_only_what_the_warnings_say(self):
        sets = ['worker={"device": "cuda", "rdma": {"enabled": true}}']
        complaints = [one for _, pod in self.pods(sets=sets) for one in restricted(pod)]
        self.assertEqual(complaints, ["rank-0: adds IPC_LOCK"])

    def test_violations_are_found(self):
        _, good = self.pods()[0]

        def planted(change):
            pod = copy.deepcopy(good)
            change(pod, pod["containers"][0])
            return restricted(pod) + house(pod)

        self.assertEqual(planted(lambda pod, one: None), [])
        for change in (
                lambda pod, one: pod.update(hostPID=True),
                lambda pod, one: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
                lambda pod, one: pod["volumes"].append({"name": "x", "emptyDir": {}}),
                lambda pod, one: pod["securityContext"].pop("runAsNonRoot"),
                lambda pod, one: pod["securityContext"].pop("seccompProfile"),
                lambda pod, one: pod["securityContext"].update(runAsUser=0),
                lambda pod, one: one["securityContext"].update(privileged=True),
                lambda pod, one: one["securityContext"].pop("allowPrivilegeEscalation"),
                lambda pod, one: one["securityContext"]["capabilities"].update(drop=[]),
                lambda pod, one: one["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
                lambda pod, one: one["securityContext"].update(readOnlyRootFilesystem=False),
                lambda pod, one: one["ports"][0].update(hostPort=80),
                lambda pod, one: one["livenessProbe"]["httpGet"].update(host="other"),
                lambda pod, one: one.update(image="tessera/coordinator"),
                lambda pod, one: one["resources"].pop("limits"),
                lambda pod, one: pod.update(automountServiceAccountToken=True)):
            self.assertEqual(len(planted(change)), 1)


if __name__ == "__main__":
    unittest.main()
