{{/* The release builder: what its Deployment and the gateway's pod with a sidecar have in common. */}}

{{- define "portcullis.builder.isSidecar" -}}
{{- if and .Values.builder.enabled .Values.builder.sidecar }}true{{ end -}}
{{- end }}

{{- define "portcullis.builder.name" -}}
{{ include "portcullis.name" . }}-builder
{{- end }}

{{- define "portcullis.builder.namespace" -}}
{{ .Values.builder.sidecar | ternary .Release.Namespace .Values.builder.namespace }}
{{- end }}

{{- define "portcullis.builder.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/component: builder
{{- end }}

{{- define "portcullis.builder.labels" -}}
{{ include "portcullis.builder.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "portcullis.builder.image" -}}
{{ .Values.builder.image.repository }}:{{ .Values.builder.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "portcullis.builder.configuration" -}}
{{- $tls := dict "certificate" "/etc/portcullis-tls/tls.crt" "key" "/etc/portcullis-tls/tls.key" -}}
{{- $database := dict "postgresql" (dict "urlFile" "/etc/portcullis-database/url") -}}
{{- $store := .Values.builder.postgresql.secretName | empty | ternary "/var/lib/portcullis/releases.db" $database -}}
{{- $configuration := dict "address" "[::]:8470" "tls" $tls "store" $store "registries" (list) "callers" (list) -}}
{{- if .Values.builder.jobs.enabled }}
{{- $jobs := dict "namespace" .Values.builder.jobs.namespace "image" (include "portcullis.builder.image" .) -}}
{{- $builds := dict "folder" "/var/lib/portcullis/builds" "repositories" (list) "jobs" $jobs -}}
{{- $_ := set $configuration "builds" $builds -}}
{{- end -}}
{{- toYaml (mergeOverwrite $configuration (deepCopy .Values.builder.configuration)) -}}
{{- end }}

{{- define "portcullis.builder.configurationName" -}}
{{ include "portcullis.builder.name" . }}-{{ include "portcullis.builder.configuration" . | sha256sum | trunc 10 }}
{{- end }}

{{- define "portcullis.builder.container" -}}
name: builder
image: {{ include "portcullis.builder.image" . }}
args: [builder, --log-format, json, --config, /etc/portcullis-builder/builder.yaml]
ports:
  - {name: api, containerPort: 8470}
{{- if not .Values.builder.sidecar }}
{{- $probe := dict "path" "/healthz" "port" "api" "scheme" "HTTPS" | toJson }}
livenessProbe: {httpGet: {{ $probe }}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3}
readinessProbe: {httpGet: {{ $probe }}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}
{{- end }}
resources: {{- toYaml .Values.builder.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  {{- if .Values.builder.sidecar }}
  # In place of the token that the pod's other container has.
  - {name: builder-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  {{- end }}
  - {name: builder-configuration, mountPath: /etc/portcullis-builder, readOnly: true}
  - {name: builder-tls, mountPath: /etc/portcullis-tls, readOnly: true}
  - {name: builder-registry, mountPath: /etc/portcullis-registry, readOnly: true}
  - {name: builder-sealing, mountPath: /etc/portcullis-sealing, readOnly: true}
  - {name: builder-repositories, mountPath: /etc/portcullis-repositories, readOnly: true}
  - {name: builder-store, mountPath: /var/lib/portcullis}
  {{- if .Values.builder.postgresql.secretName }}
  - {name: builder-database, mountPath: /etc/portcullis-database, readOnly: true}
  {{- end }}
{{- end }}

{{- define "portcullis.builder.volumes" -}}
{{- $name := include "portcullis.builder.name" . -}}
{{- if .Values.builder.sidecar -}}
- name: builder-token
  secret: {secretName: {{ $name }}-token}
{{ end -}}
- name: builder-configuration
  configMap: {name: {{ include "portcullis.builder.configurationName" . }}}
- name: builder-tls
  secret: {secretName: {{ $name }}-tls}
# Without it the builder reads registries that need no credentials.
- name: builder-registry
  secret: {secretName: {{ $name }}-registry, optional: true}
# Without it templates bring no Secrets.
- name: builder-sealing
  secret: {secretName: {{ $name }}-sealing, optional: true}
# Without it repositories are followed that need no credentials.
- name: builder-repositories
  secret: {secretName: {{ $name }}-repositories, optional: true}
{{- if .Values.builder.postgresql.secretName }}
# For mirrors of repositories and logs of builds.
- name: builder-store
  emptyDir: {sizeLimit: {{ .Values.builder.storage }}}
- name: builder-database
  secret: {secretName: {{ .Values.builder.postgresql.secretName }}}
{{- else }}
- name: builder-store
  persistentVolumeClaim: {claimName: {{ $name }}}
{{- end }}
{{- end }}
