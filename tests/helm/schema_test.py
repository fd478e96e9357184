"""Every rendered object against the API of three Kubernetes versions and of the operators, strictly."""

import json
import subprocess
import unittest

import openapi
import tools
from rendering import EVERYTHING, LWS, RENDERED, text

VERSIONS = ["1.31.14", "1.34.4", "1.37.2"]
HPA = 'autoscaling.kind="hpa"'


class SchemaTest(unittest.TestCase):
    def complaints(self, version, rendered):
        done = subprocess.run(
            [tools.need("kubeconform"), "-strict", "-output", "json", "-summary", "-schema-location",
             f"{openapi.schemas(version)}/{openapi.LAYOUT}", "-"], input=rendered, capture_output=True, text=True, timeout=120)
        report = json.loads(done.stdout)
        self.assertEqual(report["summary"]["skipped"], 0)
        wrong = report["summary"]["invalid"] + report["summary"]["errors"]
        return report["summary"]["valid"], report.get("resources", []) if wrong else []

    def test_everything_rendered(self):
        cases = [(path, (), (LWS,)) for path in RENDERED]
        cases += [(None, (), ()), (EVERYTHING, (), (LWS,)), (EVERYTHING, (HPA,), (LWS,)),
                  # Two nodes without LeaderWorkerSet; resource claims.
                  (None, ('parallel={"tensor": 8, "nodes": 2}', "replicas=2"), ()),
                  (None, ('worker={"device": "cuda", "gpu": {"allocation": "dra", "claimTemplate": "one"}}',), ())]
        for version in VERSIONS:
            with self.subTest(kubernetes=version):
                # The release says in a complaint which case it was.
                rendered = "\n".join(text(values, sets, kube=version, apis=apis, release=f"case-{number}")
                                     for number, (values, sets, apis) in enumerate(cases))
                valid, wrong = self.complaints(version, rendered)
                self.assertEqual(wrong, [])
                self.assertGreater(valid, 7 * len(cases))

    def test_mistakes_are_found(self):
        good = text(EVERYTHING)
        for was, wrong in (("preStop:", "preStopp:"), ("startupPolicy: LeaderCreated", "startupPolicy: Sometimes"),
                           ("podMetricsEndpoints:", "endpoints:"), ("minReplicaCount:", "minReplicas:"),
                           ("automountServiceAccountToken: false", "automountServiceAccountToken: 0"),
                           ("policyTypes:", "policies:"), ("method: {service:", "method: {servce:")):
            with self.subTest(wrong=wrong):
                self.assertIn(was, good)
                self.assertNotEqual(self.complaints(VERSIONS[1], good.replace(was, wrong))[1], [])


if __name__ == "__main__":
    unittest.main()
