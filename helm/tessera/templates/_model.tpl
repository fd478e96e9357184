{{/* Where the model comes from: volumes of the pods, mounts of the containers, the wait for a job. */}}
{{- define "tessera.modelDirectory" -}}
{{- if eq (include "tessera.modelScheme" .) "builtin" -}}/usr/share/tessera/demo-model{{- else -}}/models/{{ .Values.model.name }}{{- end -}}
{{- end -}}

{{/* Of what is fetched, in its claim. */}}
{{- define "tessera.hfDirectory" -}}
{{- include "tessera.modelRest" . | replace "/" "--" -}}
{{- end -}}

{{- define "tessera.hfClaim" -}}
{{- default (printf "%s-models" (include "tessera.fullname" .)) .Values.model.hf.existingClaim -}}
{{- end -}}

{{- define "tessera.modelVolume" -}}
{{- $scheme := include "tessera.modelScheme" . -}}
{{- $rest := include "tessera.modelRest" . -}}
{{- if eq $scheme "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ splitList "/" $rest | first }}, readOnly: true}
{{- else if eq $scheme "hostpath" }}
- name: model
  hostPath: {path: {{ $rest }}, type: Directory}
{{- else if eq $scheme "image" }}
- name: model
  image: {reference: {{ $rest | quote }}, pullPolicy: {{ .Values.images.pullPolicy }}}
{{- else if eq $scheme "hf" }}
- name: model
  persistentVolumeClaim: {claimName: {{ include "tessera.hfClaim" . }}}
{{- end }}
{{- with .Values.model.chatTemplateConfigMap }}
- name: chat-template
  configMap: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "tessera.modelMount" -}}
{{- $scheme := include "tessera.modelScheme" . -}}
{{- $rest := include "tessera.modelRest" . -}}
{{- $path := "" -}}
{{- if eq $scheme "pvc" -}}
{{- $path = splitList "/" $rest | rest | join "/" -}}
{{- else if eq $scheme "image" -}}
{{- $path = .Values.model.imagePath -}}
{{- else if eq $scheme "hf" -}}
{{- $path = include "tessera.hfDirectory" . -}}
{{- end -}}
{{- if ne $scheme "builtin" }}
- name: model
  mountPath: {{ include "tessera.modelDirectory" . }}
  readOnly: true
  {{- with $path }}
  subPath: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Pods wait until the job has written everything: it renames its folder last. */}}
{{- define "tessera.modelWait" -}}
{{- if eq (include "tessera.modelScheme" .) "hf" }}
- name: wait-for-model
  image: {{ .Values.model.hf.image }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  command:
    - python3
    - -c
    - |
      import os, sys, time
      until = time.monotonic() + {{ .Values.model.hf.waitSeconds }}
      while not os.path.isdir(sys.argv[1]):
          if time.monotonic() > until:
              sys.exit(sys.argv[1] + " did not come; see the job that fetches the model")
          time.sleep(5)
    - /store/{{ include "tessera.hfDirectory" . }}
  securityContext:
    {{- include "tessera.containerSecurity" (dict "readOnly" true) | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 128Mi}
  volumeMounts:
    - {name: model, mountPath: /store, readOnly: true}
{{- end }}
{{- end -}}
