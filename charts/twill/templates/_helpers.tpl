{{/*
Values of older releases of flannel's chart lack what came later, and with `--reuse-values` they
take the place of values.yaml: a template asks for nothing that it does not have a default for.
*/}}

{{- define "twill.labels" -}}
{{- with omit ((.Values.twill).commonLabels | default dict) "tier" "app" }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* The image of the CNI plugin. `flannel.image_cni` was its name up to flannel 0.28.2. */}}
{{- define "twill.cniImage" -}}
{{- $now := ((.Values.flannel).flannel_cni).image | default dict }}
{{- $former := (.Values.flannel).image_cni | default dict }}
{{- $repository := $former.repository | default $now.repository }}
{{- $tag := $former.tag | default $now.tag }}
{{- printf "%s:%s" $repository (toString $tag) }}
{{- end }}

{{- define "twill.image" -}}
{{- printf "%s:%s" .Values.flannel.image.repository (toString .Values.flannel.image.tag) }}
{{- end }}

{{- define "twill.pullPolicy" -}}
{{- with (.Values.twill).imagePullPolicy -}}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "twill.profile" -}}
{{- $profile := (.Values.twill).capabilities | default "bpf" }}
{{- if not (has $profile (list "bpf" "privileged" "none")) }}
{{- fail (printf "twill.capabilities is %q: write bpf, privileged or none" $profile) }}
{{- end }}
{{- $profile }}
{{- end }}

{{- define "twill.bpffs" -}}
{{- ((.Values.twill).bpffs).path | default "/sys/fs/bpf" }}
{{- end }}

{{/* Whether a BPF file system is mounted on the host where none is. Empty: no. */}}
{{- define "twill.mountsBpffs" -}}
{{- if ne (toString ((.Values.twill).bpffs).mount) "false" }}yes{{ end }}
{{- end }}

{{- define "twill.runDir" -}}
{{- (.Values.twill).runDir | default "/run/twill" }}
{{- end }}

{{- define "twill.stateDir" -}}
{{- (.Values.twill).stateDir | default "/var/lib/twill" }}
{{- end }}

{{/*
The daemon's flags that have one value, as variables: an image of flannel's, which a cluster may be
taken back to, ignores variables that it does not know, and ends at flags that it does not know.
*/}}
{{- define "twill.flags" -}}
{{- $twill := .Values.twill | default dict }}
{{- $flags := dict
  "ALLOW_POD_VXLAN" $twill.allowPodVxlan
  "ATTACH_BY" $twill.attachBy
  "DATAPATH" $twill.datapath
  "FAST_PATH" $twill.fastPath
  "GUARD" $twill.guard
  "GUARD_ATTACH" $twill.guardAttach
  "LOG_FORMAT" $twill.logFormat
  "MARK_BIT" $twill.markBit
  "MAX_PERMITS" $twill.maxPermits
  "MAX_ROUTES" $twill.maxRoutes
  "MAX_VTEPS" $twill.maxVteps
  "PERMIT_TIME" $twill.permitTime
  "RESYNC_INTERVAL" $twill.resyncInterval
}}
{{- range $name, $value := $flags }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
- name: FLANNELD_{{ $name }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}
{{- range $name, $pair := dict
  "BPFFS" (list (include "twill.bpffs" .) "/sys/fs/bpf")
  "RUN_DIR" (list (include "twill.runDir" .) "/run/twill")
  "STATE_DIR" (list (include "twill.stateDir" .) "/var/lib/twill")
}}
{{- if ne (first $pair) (last $pair) }}
- name: FLANNELD_{{ $name }}
  value: {{ first $pair | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What flannel's chart had in its template up to 0.26.4. */}}
{{- define "twill.stockCniConf" -}}
{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
{{ end }}
