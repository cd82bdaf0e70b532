{{- define "portcullis.name" -}}
{{- if contains "portcullis" .Release.Name -}}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-portcullis" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: portcullis
app.kubernetes.io/component: gateway
{{- end }}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "portcullis.subjects" -}}
subjects:
  - {kind: ServiceAccount, name: {{ include "portcullis.name" . }}, namespace: {{ .Release.Namespace | quote }}}
{{- end }}

{{/* `access.login`: the provider and its client, and then what the values state. */}}
{{- define "portcullis.login" -}}
{{- $login := dict -}}
{{- with .Values.login.issuer }}{{ $_ := set $login "issuer" (hasPrefix "https://" . | ternary "login" .) }}{{ end -}}
{{- with .Values.login.clientId }}{{ $_ := set $login "clientId" . }}{{ end -}}
{{- if .Values.login.clientSecretName -}}
{{- $_ := set $login "clientSecretFile" "/etc/portcullis-secrets/login/client-secret" -}}
{{- end -}}
{{- toYaml (mergeOverwrite $login (deepCopy .Values.login.settings)) -}}
{{- end }}

{{/* Files of Secrets that the configuration names. */}}
{{- define "portcullis.secretMounts" -}}
{{- $mounts := .Values.secretMounts -}}
{{- if and .Values.login.enabled .Values.login.clientSecretName -}}
{{- $mounts = prepend $mounts (dict "name" "login" "secretName" .Values.login.clientSecretName) -}}
{{- end -}}
{{- toYaml $mounts -}}
{{- end }}

{{/* The configuration file: what the values imply, and then what they state. */}}
{{- define "portcullis.configuration" -}}
{{- $access := dict "credentialsNamespace" .Release.Namespace -}}
{{- if .Values.login.enabled }}{{ $_ := set $access "login" (fromYaml (include "portcullis.login" .)) }}{{ end -}}
{{- $listeners := dict
  "http" (dict "address" "[::]:8080" "mode" "redirect")
  "https" (dict "address" "[::]:8443") -}}
{{- if or .Values.exposure.proxyProtocol .Values.exposure.awsCertificate }}{{ $_ := set $listeners "proxyProtocol" true }}{{ end -}}
{{- $configuration := dict
  "zone" .Values.zone
  "source" (dict "kubernetes" (dict))
  "listeners" $listeners
  "probes" (dict "address" "[::]:9902")
  "telemetry" (dict "address" "[::]:9903")
  "access" $access
  "drain" (dict "delay" "5s" "deadline" "30s") -}}
{{- with .Values.exposure.trustedNetworks }}{{ $_ := set $configuration "trustedNetworks" . }}{{ end -}}
{{- with .Values.certificate.secretName -}}
{{- $secret := dict "namespace" $.Release.Namespace "name" . -}}
{{- $_ := set $configuration "certificates" (list (dict "secret" $secret)) -}}
{{- end -}}
{{- if .Values.acme.enabled }}{{ $_ := set $configuration "acme" .Values.acme.settings }}{{ end -}}
{{- $configuration = mergeOverwrite $configuration (deepCopy .Values.configuration) -}}
{{- if and .Values.login.enabled (hasPrefix "https://" .Values.login.issuer) -}}
{{- $issuer := dict "name" "login" "issuer" .Values.login.issuer "audiences" (list .Values.login.clientId) -}}
{{- $_ := set $configuration.access "issuers" (prepend ($configuration.access.issuers | default list) $issuer) -}}
{{- end -}}
{{- toYaml $configuration -}}
{{- end }}

{{/* A changed configuration is another ConfigMap, so it rolls the pods, and earlier pods keep theirs. */}}
{{- define "portcullis.configurationName" -}}
{{ include "portcullis.name" . }}-{{ include "portcullis.configuration" . | sha256sum | trunc 10 }}
{{- end }}
