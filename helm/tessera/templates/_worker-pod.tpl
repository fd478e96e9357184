{{/* The pod of a node's ranks: one container per rank, so that one that dies starts over and the others keep their
     weights. include "tessera.workerPod" (list $ "number of the pool" "pod label that has it, where the number is empty") */}}
{{- define "tessera.workerPod" -}}
{{- $ := index . 0 -}}
{{- $pool := index . 1 -}}
{{- $poolLabel := index . 2 -}}
{{- $w := $.Values.worker -}}
{{- $cuda := eq $w.device "cuda" -}}
{{- $dra := and $cuda (eq $w.gpu.allocation "dra") -}}
{{- $ranks := include "tessera.ranksPerPod" $ | int -}}
{{- $coordinator := include "tessera.coordinator" $ -}}
metadata:
  labels:
    {{- include "tessera.selector" $ | nindent 4 }}
    app.kubernetes.io/component: worker
    {{- with $pool }}
    tessera.pool: {{ . | quote }}
    {{- end }}
    {{- with $w.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or $w.podAnnotations (and $w.rdma.enabled $w.rdma.networks) }}
  annotations:
    {{- if and $w.rdma.enabled $w.rdma.networks }}
    k8s.v1.cni.cncf.io/networks: {{ $w.rdma.networks | quote }}
    {{- end }}
    {{- with $w.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  {{- include "tessera.podBasics" $ | nindent 2 }}
  # Ranks of a pod see each other die at once, and clear each other's zombies.
  shareProcessNamespace: true
  terminationGracePeriodSeconds: {{ add $.Values.drain.rankSeconds 15 }}
  {{- with $w.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $w.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- with $w.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $w.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "slice" $w.tolerations }}
  {{- with $w.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- else if $cuda }}
  tolerations:
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with $w.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $dra }}
  resourceClaims:
    {{- range $rank := until $ranks }}
    - {name: gpu-{{ $rank }}, resourceClaimTemplateName: {{ $w.gpu.claimTemplate }}}
    {{- end }}
  {{- end }}
  {{- with include "tessera.modelWait" $ }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    {{- range $rank := until $ranks }}
    - name: rank-{{ $rank }}
      image: {{ include "tessera.image" (list $ (ternary $.Values.images.workerCuda $.Values.images.workerCpu $cuda)) }}
      imagePullPolicy: {{ $.Values.images.pullPolicy }}
      command: [/usr/bin/tessera-worker]
      args:
        - --coordinator={{ $coordinator }}-$(TESSERA_POOL).{{ $coordinator }}:50050
        - --name=$(TESSERA_POD)-r{{ $rank }}
        - --model-root={{ include "tessera.modelDirectory" $ }}
        - --device={{ ternary "cuda:0" "cpu" $cuda }}
        {{- with int $w.threads }}
        - --threads={{ . }}
        {{- end }}
        - --reconnect-seconds={{ $w.reconnectSeconds }}
        - --log-level={{ $.Values.engine.logLevel }}
      env:
        - name: TESSERA_POD
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: TESSERA_POOL
          {{- if $pool }}
          value: {{ $pool | quote }}
          {{- else }}
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['{{ $poolLabel }}']"}}
          {{- end }}
        - {name: HF_HUB_OFFLINE, value: "1"}
        {{- with include "tessera.rdmaEnv" $ }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $w.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      lifecycle:
        preStop:
          # Whoever terminates ranks and coordinator together lets answers end first.
          sleep: {seconds: {{ $.Values.drain.rankSeconds }}}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        {{- include "tessera.containerSecurity" (dict "readOnly" $w.readOnlyRootFilesystem "add" (ternary (list "IPC_LOCK") list $w.rdma.enabled)) | nindent 8 }}
      resources:
        {{- include "tessera.rankResources" (list $ $rank) | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        {{- with include "tessera.modelMount" $ }}
        {{- . | nindent 8 }}
        {{- end }}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ include "tessera.shmSize" $ }}}
    {{- with include "tessera.modelVolume" $ }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "tessera.shmSize" -}}
{{- $computed := ternary (printf "%dGi" (max 8 (include "tessera.ranksPerPod" . | int))) "1Gi" (eq .Values.worker.device "cuda") -}}
{{- default $computed .Values.worker.shmSize -}}
{{- end -}}

{{- define "tessera.rdmaEnv" -}}
{{- with .Values.worker.rdma -}}
{{- if .enabled }}
{{- with .hca }}
- {name: NCCL_IB_HCA, value: {{ . | quote }}}
{{- end }}
{{- with .gidIndex }}
- {name: NCCL_IB_GID_INDEX, value: {{ . | quote }}}
{{- end }}
{{- with .socketInterface }}
- {name: NCCL_SOCKET_IFNAME, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What the values ask for, and the devices. include "tessera.rankResources" (list $ rank) */}}
{{- define "tessera.rankResources" -}}
{{- $ := index . 0 -}}
{{- $w := $.Values.worker -}}
{{- $devices := dict -}}
{{- $claims := dict -}}
{{- if eq $w.device "cuda" -}}
{{- if eq $w.gpu.allocation "dra" -}}
{{- $claims = dict "claims" (list (dict "name" (printf "gpu-%d" (index . 1)))) -}}
{{- else -}}
{{- $devices = dict $w.gpu.resource "1" -}}
{{- end -}}
{{- end -}}
{{- if $w.rdma.enabled -}}
{{- $devices = set $devices $w.rdma.resource "1" -}}
{{- end -}}
{{- $limits := merge (dict) $devices (default (dict) $w.resources.limits) -}}
{{- toYaml (merge $claims (dict "limits" $limits) (omit $w.resources "limits")) -}}
{{- end -}}
