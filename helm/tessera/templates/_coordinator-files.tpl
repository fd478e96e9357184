{{/* Files that the coordinator reads live: whole folders are mounted, for a subPath would never change. */}}
{{- define "tessera.coordinatorMounts" -}}
{{- if .Values.model.chatTemplateConfigMap }}
- {name: chat-template, mountPath: /etc/tessera/chat-template, readOnly: true}
{{- end }}
{{- if .Values.auth.existingSecret }}
- {name: auth, mountPath: /etc/tessera/auth, readOnly: true}
{{- end }}
{{- if .Values.auth.cacheSecret }}
- {name: cache, mountPath: /etc/tessera/cache, readOnly: true}
{{- end }}
{{- if .Values.admin.enabled }}
- {name: admin, mountPath: /etc/tessera/admin, readOnly: true}
{{- end }}
{{- if .Values.prices.existingConfigMap }}
- {name: prices, mountPath: /etc/tessera/prices, readOnly: true}
{{- end }}
{{- if .Values.usage.enabled }}
- {name: usage, mountPath: /var/lib/tessera/usage}
{{- end }}
{{- end -}}

{{- define "tessera.coordinatorVolumes" -}}
{{- with .Values.auth.existingSecret }}
- name: auth
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.auth.cacheSecret }}
- name: cache
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if .Values.admin.enabled }}
- name: admin
  secret: {secretName: {{ .Values.admin.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.prices.existingConfigMap }}
- name: prices
  configMap: {name: {{ . }}}
{{- end }}
{{- end -}}
