{{/* What follows from the values: kind of workload, counts, grace periods; and what they must not be. */}}
{{- define "tessera.workloadKind" -}}
{{- $hasLws := .Capabilities.APIVersions.Has "leaderworkerset.x-k8s.io/v1" -}}
{{- if ne .Values.workload.kind "auto" -}}
{{- .Values.workload.kind -}}
{{- else if and $hasLws (gt (int .Values.parallel.nodes) 1) -}}
LeaderWorkerSet
{{- else -}}
StatefulSet
{{- end -}}
{{- end -}}

{{- define "tessera.ranksPerPod" -}}
{{- div (mul .Values.parallel.tensor .Values.parallel.pipeline) .Values.parallel.nodes -}}
{{- end -}}

{{/* Replicas that are surely there. */}}
{{- define "tessera.replicasMin" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{/* 15 s on top: notices to clients and the last lines of usage. */}}
{{- define "tessera.coordinatorGrace" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.seconds 15 -}}
{{- end -}}

{{- define "tessera.modelScheme" -}}
{{- regexFind "^[a-z]+" .Values.model.uri -}}
{{- end -}}

{{- define "tessera.modelRest" -}}
{{- regexReplaceAll "^[a-z]+://" .Values.model.uri "" -}}
{{- end -}}

{{- define "tessera.validate" -}}
{{- $ranks := mul .Values.parallel.tensor .Values.parallel.pipeline -}}
{{- if gt (int .Values.parallel.pipeline) 1 -}}
{{- fail (printf "parallel.pipeline is %d: this version's programs have no pipeline parallelism; use 1, and GPUs with more memory or engine.quantize: fp8" (int .Values.parallel.pipeline)) -}}
{{- end -}}
{{- if mod $ranks .Values.parallel.nodes -}}
{{- fail (printf "parallel.nodes is %d, but %d ranks do not divide into as many pods" (int .Values.parallel.nodes) (int $ranks)) -}}
{{- end -}}
{{- if and (eq .Values.workload.kind "LeaderWorkerSet") (not (.Capabilities.APIVersions.Has "leaderworkerset.x-k8s.io/v1")) -}}
{{- fail "workload.kind is LeaderWorkerSet, but the cluster has no leaderworkerset.x-k8s.io/v1: install it (https://lws.sigs.k8s.io), or use workload.kind: StatefulSet; with `helm template` add --api-versions leaderworkerset.x-k8s.io/v1" -}}
{{- end -}}
{{- if and .Values.workload.exclusiveTopology (ne (include "tessera.workloadKind" .) "LeaderWorkerSet") -}}
{{- fail "workload.exclusiveTopology works with LeaderWorkerSet only; use worker.affinity with StatefulSet" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (gt (int .Values.parallel.nodes) 1) (eq (include "tessera.workloadKind" .) "StatefulSet") -}}
{{- fail "autoscaling of groups on several nodes needs LeaderWorkerSet: with StatefulSet every group is an object of its own" -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.engine.rowsMax) (int .Values.engine.tokensMax) -}}
{{- fail "engine.rowsMax is more than engine.tokensMax: every row of a step has at least one token" -}}
{{- end -}}
{{- if and .Values.admin.enabled (not .Values.admin.existingSecret) -}}
{{- fail "admin.enabled needs admin.existingSecret: off its machine the admin API is served with a token only" -}}
{{- end -}}
{{- if and (eq .Values.worker.gpu.allocation "dra") (not .Values.worker.gpu.claimTemplate) -}}
{{- fail "worker.gpu.allocation is dra: name a ResourceClaimTemplate in worker.gpu.claimTemplate" -}}
{{- end -}}
{{- if and (eq (include "tessera.modelScheme" .) "builtin") (ne .Values.model.name "demo-model") -}}
{{- fail "model.uri is builtin://demo-model: then model.name is demo-model; or set model.uri to a model of your own" -}}
{{- end -}}
{{- if and .Values.model.imagePath (ne (include "tessera.modelScheme" .) "image") -}}
{{- fail "model.imagePath is for model.uri: image://..." -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs" -}}
{{- end -}}
{{- end -}}
