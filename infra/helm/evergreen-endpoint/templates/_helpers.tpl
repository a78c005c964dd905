{{- define "endpoint.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "endpoint.selector" -}}
app.kubernetes.io/name: evergreen-endpoint
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "endpoint.labels" -}}
{{ include "endpoint.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
