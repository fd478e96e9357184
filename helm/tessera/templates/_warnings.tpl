{{/* What is allowed and should be known, one per line. */}}
{{- define "tessera.warnings" -}}
{{- $cuda := eq .Values.worker.device "cuda" -}}
{{- $ranks := include "tessera.ranksPerPod" . | int -}}
Nothing here is encrypted: keep these ports inside a network you trust, and put TLS in front of the Service.
{{- if not .Values.auth.existingSecret }}
auth.existingSecret is empty: whoever reaches the Service may call.
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
networkPolicy.enabled is false: whoever reaches a coordinator's port 50050 may join as a rank and read the plans.
{{- else if not .Values.networkPolicy.clients }}
networkPolicy.clients is empty: only pods of this namespace may call.
{{- end }}
{{- if eq (include "tessera.replicasMin" . | int) 1 }}
One replica: upgrades, and the loss of a node, interrupt the service. There is no PodDisruptionBudget, for it would block every drain.
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.drain.rankSeconds) (add .Values.drain.preStopSeconds .Values.drain.seconds | int)) }}
Answers that take longer than drain.rankSeconds ({{ .Values.drain.rankSeconds }} s) are cut off when a replica is scaled down.
{{- end }}
{{- if gt (int .Values.replicas) 1 }}
Several pools: tenants' limits and the prefix cache are each coordinator's own.
{{- end }}
A coordinator that is stopped stops its ranks, which then load again; ranks that load have no probe of their own.
{{- if and $cuda (eq (toString .Values.engine.kvMemory) "0") }}
engine.kvMemory is 0: the KV cache is 1 GiB or one context. Give the GPU's free memory to it.
{{- end }}
{{- if and .Values.worker.shmSize $cuda (regexMatch "^[0-9]+Gi$" .Values.worker.shmSize) (lt (trimSuffix "Gi" .Values.worker.shmSize | int) $ranks) }}
worker.shmSize is {{ .Values.worker.shmSize }}, less than 1Gi for each of the {{ $ranks }} ranks of a pod.
{{- end }}
{{- if and (gt (int .Values.parallel.nodes) 1) $cuda (not .Values.worker.rdma.enabled) }}
Groups span nodes without worker.rdma: collectives go over TCP.
{{- end }}
{{- if .Values.worker.rdma.enabled }}
worker.rdma adds the capability IPC_LOCK: the namespace must not enforce the restricted profile.
{{- end }}
{{- if eq (include "tessera.modelScheme" .) "hostpath" }}
hostPath volumes are outside the restricted and the baseline profile, and coordinators need the directory on their nodes too.
{{- end }}
{{- if eq (include "tessera.modelScheme" .) "image" }}
model.uri is an image: the cluster needs the feature ImageVolume.
{{- end }}
{{- if ne .Values.engine.quantize "none" }}
engine.quantize is {{ .Values.engine.quantize }}: weights are rounded while they are loaded, and answers differ from those of the checkpoint.
{{- end }}
{{- if and (eq .Values.workload.kind "auto") (gt (int .Values.parallel.nodes) 1) }}
workload.kind is auto and chose {{ include "tessera.workloadKind" . }}; fix it, for another choice at an upgrade would replace the groups.
{{- end }}
{{- end -}}
