{{/* Names. Components add up to 20 letters, and a Service's name may have 63. */}}
{{- define "hermes.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- end -}}

{{/*
Below, a "part" is a dict of `root` (the chart's context), `name` (`control-plane` or `data-plane`), and `values` (its
block of the values).
*/}}
{{- define "hermes.controlPlane" -}}
{{- include "hermes.fullname" . }}-control-plane
{{- end -}}

{{- define "hermes.dataPlane" -}}
{{- include "hermes.fullname" . }}-data-plane
{{- end -}}

{{- define "hermes.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "hermes.labels" -}}
{{ include "hermes.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: hermes
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "hermes.image" -}}
{{- $image := .root.Values.image -}}
{{- $prefix := ternary (printf "%s/" (trimSuffix "/" $image.registry)) "" (ne $image.registry "") -}}
{{- printf "%s%s:%s" $prefix .values.image.repository (default .root.Chart.AppVersion $image.tag) | quote -}}
{{- end -}}

{{- define "hermes.serviceAccount" -}}
{{- $own := printf "%s-%s" (include "hermes.fullname" .root) .name -}}
{{- default (ternary $own "default" .values.serviceAccount.create) .values.serviceAccount.name -}}
{{- end -}}

{{/* The Secret with ca.crt, tls.crt and tls.key of a part. */}}
{{- define "hermes.tlsSecret" -}}
{{- if eq .root.Values.tls.issuer "secrets" -}}
{{- $key := ternary "controlPlane" "dataPlane" (eq .name "control-plane") -}}
{{- index .root.Values.tls.secrets $key | required (printf "tls.issuer is `secrets`: name the Secret in tls.secrets.%s" $key) -}}
{{- else -}}
{{- /* The name depends on the issuer, so that one can replace the other. */ -}}
{{- $suffix := ternary "certificate" "tls" (eq .root.Values.tls.issuer "cert-manager") -}}
{{- printf "%s-%s-%s" (include "hermes.fullname" .root) .name $suffix -}}
{{- end -}}
{{- end -}}

{{/* The names that proxies dial, which the control plane's certificate must have, as a JSON list. */}}
{{- define "hermes.serverNames" -}}
{{- $name := include "hermes.controlPlane" . -}}
{{- $spaced := printf "%s.%s" $name .Release.Namespace -}}
{{- list $name $spaced (printf "%s.svc" $spaced) (printf "%s.svc.%s" $spaced .Values.clusterDomain) | toJson -}}
{{- end -}}

{{/* The Service by which gateways reach the endpoint pickers. */}}
{{- define "hermes.picker" -}}
{{- default (printf "%s-picker" (include "hermes.fullname" .)) .Values.endpointPicker.service.name -}}
{{- end -}}

{{/* Who issues the certificate that gateways are shown: `chart`, `cert-manager`, or empty where the chart is not concerned. */}}
{{- define "hermes.pickerIssuer" -}}
{{- $picker := .Values.endpointPicker -}}
{{- if and $picker.enabled $picker.tls.enabled (not $picker.tls.secret) -}}
{{- if eq .Values.tls.issuer "secrets" -}}
{{- fail "tls.issuer is `secrets`: name the Secret in endpointPicker.tls.secret" -}}
{{- end -}}
{{- .Values.tls.issuer -}}
{{- end -}}
{{- end -}}

{{/* The Secret with tls.crt and tls.key that gateways are shown. */}}
{{- define "hermes.pickerSecret" -}}
{{- $suffix := ternary "certificate" "tls" (eq .Values.tls.issuer "cert-manager") -}}
{{- default (printf "%s-picker-%s" (include "hermes.fullname" .) $suffix) .Values.endpointPicker.tls.secret -}}
{{- end -}}

{{/* The names by which gateways reach the pickers, as a JSON list. */}}
{{- define "hermes.pickerNames" -}}
{{- $service := printf "%s.%s.svc" (include "hermes.picker" .) .Release.Namespace -}}
{{- list $service (printf "%s.%s" $service .Values.clusterDomain) (trimSuffix ".svc" $service) (include "hermes.picker" .) | toJson -}}
{{- end -}}

{{/*
Each certificate that the issuer (an argument beside the root) makes, as a JSON list: the part that shows it, its Secret,
its names and its usage.
*/}}
{{- define "hermes.certificates" -}}
{{- $root := .root -}}
{{- $all := list -}}
{{- if and $root.Values.tls.enabled (eq $root.Values.tls.issuer .issuer) -}}
{{- $secret := include "hermes.tlsSecret" (dict "root" $root "name" "control-plane") -}}
{{- $names := include "hermes.serverNames" $root | fromJsonArray -}}
{{- $all = append $all (dict "name" "control-plane" "secret" $secret "usage" "server auth" "names" $names) -}}
{{- $secret := include "hermes.tlsSecret" (dict "root" $root "name" "data-plane") -}}
{{- $names := list (include "hermes.dataPlane" $root) -}}
{{- $all = append $all (dict "name" "data-plane" "secret" $secret "usage" "client auth" "names" $names) -}}
{{- end -}}
{{- if eq (include "hermes.pickerIssuer" $root) .issuer -}}
{{- $names := include "hermes.pickerNames" $root | fromJsonArray -}}
{{- $all = append $all (dict "name" "picker" "secret" (include "hermes.pickerSecret" $root) "usage" "server auth" "names" $names) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* Where Gateways and their pools are looked for, as keys of the configuration. */}}
{{- define "hermes.gatewayNamespaces" -}}
{{- with .Values.gatewayApi -}}
{{- if and .enabled .allNamespaces -}}
allNamespaces: true
{{- else if and .enabled .namespaces -}}
namespaces: {{- toYaml .namespaces | nindent 0 }}
{{- else -}}
{}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The mapping `gatewayApi` of the configuration. What `config` has of it goes before. */}}
{{- define "hermes.gatewayConfig" -}}
{{- with .Values.gatewayApi -}}
{{- if and .namespaces .allNamespaces -}}
{{- fail "gatewayApi: namespaces and allNamespaces are both set: set only one of the two" -}}
{{- end -}}
{{- $count := sub .ports.last .ports.first | add1 | int -}}
{{- if or (lt $count 1) (gt $count 4096) -}}
{{- fail (printf "gatewayApi.ports: from %v to %v are %d ports, of 1 to 4096" .ports.first .ports.last $count) -}}
{{- end -}}
controllerName: {{ .controllerName }}
{{- with include "hermes.gatewayNamespaces" $ | fromYaml }}
{{ toYaml . }}
{{- end }}
service:
  type: {{ .service.type }}
  selector: {{- include "hermes.selector" (dict "root" $ "name" "data-plane") | nindent 4 }}
  {{- with .service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
  portRange: {{ .ports.first }}-{{ .ports.last }}
{{- end -}}
{{- end -}}

{{/*
The configuration file. Where gateways ask for endpoints of pools, and nothing else is configured, it makes objects
configuration. Else, without `config` and `app`, it is the block `app`, whose defaults are the original's.
*/}}
{{- define "hermes.config" -}}
{{- $config := deepCopy (default dict .Values.config) -}}
{{- if and .Values.app (hasKey $config "app") -}}
{{- fail "`app` and `config.app` are the same block: give one of the two" -}}
{{- end -}}
{{- $picker := .Values.endpointPicker -}}
{{- $gateway := .Values.gatewayApi -}}
{{- if and (hasKey $config "gatewayApi") (not $gateway.enabled) -}}
{{- fail "config.gatewayApi: set gatewayApi.enabled, which creates the class, the permissions and the ports" -}}
{{- end -}}
{{- $asked := and $picker.enabled (or $picker.pools (not (or $config .Values.app))) -}}
{{- if and (or $asked $gateway.enabled) (not (hasKey $config "inferencePools")) -}}
{{- $objects := merge (dict "pickers" (list (include "hermes.picker" .))) (include "hermes.gatewayNamespaces" . | fromYaml) -}}
{{- $config = set $config "inferencePools" $objects -}}
{{- end -}}
{{- if $gateway.enabled -}}
{{- $config = set $config "gatewayApi" (merge (default dict $config.gatewayApi) (include "hermes.gatewayConfig" . | fromYaml)) -}}
{{- end -}}
{{- if or .Values.app (not $config) -}}
{{- $config = set $config "app" .Values.app -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
The listeners of the configuration that other pods can reach, as a JSON list: name, whether it is secured, its port at the
pods, and that of the Service.
*/}}
{{- define "hermes.listeners" -}}
{{- $listeners := list -}}
{{- $names := list -}}
{{- $published := .Values.dataPlane.service.listenerPorts -}}
{{- range (include "hermes.config" . | fromYaml).listeners -}}
  {{- $port := splitList ":" .address | last | int -}}
  {{- if not (regexMatch "^(127\\.|\\[::1\\])" .address) -}}
    {{- $service := default $port (index $published .name) | int -}}
    {{- $listeners = append $listeners (dict "name" .name "secured" (hasKey . "tls") "port" $port "service" $service) -}}
    {{- $names = append $names .name -}}
  {{- end -}}
{{- end -}}
{{- range $name, $port := $published -}}
  {{- if not (has $name $names) -}}
    {{- fail (printf "dataPlane.service.listenerPorts: config.listeners has none with the name %s that other pods can reach" $name) -}}
  {{- end -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{/* The ports of these listeners at the pods, each once, as a JSON list. */}}
{{- define "hermes.listenerPorts" -}}
{{- $ports := list -}}
{{- range include "hermes.listeners" . | fromJsonArray -}}{{- $ports = append $ports (int .port) -}}{{- end -}}
{{- uniq $ports | toJson -}}
{{- end -}}

{{/* The certificates of listeners, which are Secrets of these names, as a JSON list. */}}
{{- define "hermes.listenerCertificates" -}}
{{- $names := .Values.dataPlane.certificates -}}
{{- range (include "hermes.config" . | fromYaml).listeners -}}
  {{- $names = concat $names (default list (default dict .tls).certificates) -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/*
What the control plane watches, as JSON: namespace to a list of resources. Services are watched with
their EndpointSlices, and pods with the objects that name them. `rbac.namespaces` adds namespaces that a later edit of the
ConfigMap may name.
*/}}
{{- define "hermes.watched" -}}
{{- $watched := dict -}}
{{- $here := .Release.Namespace -}}
{{- $config := include "hermes.config" . | fromYaml -}}
{{- range $config.pools -}}
  {{- with .kubernetes -}}
    {{- $namespace := default $here .namespace -}}
    {{- $kinds := ternary (list "pods") (list "services" "endpointslices") (hasKey . "pods") -}}
    {{- $watched = set $watched $namespace (concat $kinds (default list (index $watched $namespace))) -}}
  {{- end -}}
{{- end -}}
{{- if hasKey $config "app" -}}
  {{- $namespace := default $here (default dict $config.app).namespace -}}
  {{- $kinds := list "services" "endpointslices" -}}
  {{- $watched = set $watched $namespace (concat $kinds (default list (index $watched $namespace))) -}}
{{- end -}}
{{- $objects := default dict $config.inferencePools -}}
{{- if and (hasKey $config "inferencePools") (ne $objects.enabled false) (not $objects.allNamespaces) -}}
  {{- range default (list $here) $objects.namespaces -}}
    {{- $watched = set $watched . (concat (list "pods" "inferencepools") (default list (index $watched .))) -}}
  {{- end -}}
{{- end -}}
{{- range .Values.rbac.namespaces -}}
  {{- $watched = set $watched . (list "services" "endpointslices" "pods") -}}
{{- end -}}
{{- toJson $watched -}}
{{- end -}}

{{/* The rules for objects of the Inference Extension, which are configuration. */}}
{{- define "hermes.objectRules" -}}
- {apiGroups: [inference.networking.k8s.io], resources: [inferencepools], verbs: [list, watch]}
- apiGroups: [inference.networking.x-k8s.io]
  resources: [inferencepools, inferencemodels, inferenceobjectives, inferencemodelrewrites]
  verbs: [list, watch]
- {apiGroups: [llm-d.ai], resources: [inferenceobjectives, inferencemodelrewrites], verbs: [list, watch]}
{{- $objects := default dict (include "hermes.config" . | fromYaml).inferencePools }}
{{- if ne $objects.writeStatus false }}
- apiGroups: [inference.networking.x-k8s.io]
  resources: [inferencemodels/status, inferenceobjectives/status, inferencemodelrewrites/status]
  verbs: [patch]
- {apiGroups: [llm-d.ai], resources: [inferenceobjectives/status, inferencemodelrewrites/status], verbs: [patch]}
{{- end }}
{{- end -}}

{{/* What a gateway needs, by its name: its GatewayClass, and whether it speaks to pickers by TLS only, to pools of v1 only. */}}
{{- define "hermes.gateways" -}}
envoy-gateway: {class: eg}
envoy-ai-gateway: {class: envoy-ai-gateway, tls: true, v1: true}
istio: {class: istio}
agentgateway: {class: agentgateway, tls: true, v1: true}
kgateway: {class: kgateway, tls: true}
gke: {class: gke-l7-regional-external-managed, tls: true}
hermes: {class: {{ .Values.gatewayApi.className | quote }}}
{{- end -}}

{{/* The API group of a pool of `endpointPicker`. */}}
{{- define "hermes.poolGroup" -}}
inference.networking.{{ ternary "x-k8s.io" "k8s.io" (eq (default "v1" .apiVersion) "v1alpha2") }}
{{- end -}}

{{/* The Service of a pool of `endpointPicker`, for gateways that know no pools: its name, and the engines' pods. */}}
{{- define "hermes.poolService" -}}
{{- printf "%s-%s" (include "hermes.fullname" .root) .pool.name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The policies of gateways are for these: the HTTPRoute of each pool. */}}
{{- define "hermes.poolRoutes" -}}
{{- range .Values.endpointPicker.pools }}
- {group: gateway.networking.k8s.io, kind: HTTPRoute, name: {{ .name }}}
{{- end }}
{{- end -}}

{{/* The rules for Gateways, routes and what they refer to, in the namespaces of these. */}}
{{- define "hermes.gatewayRules" -}}
{{- $config := (include "hermes.config" . | fromYaml).gatewayApi -}}
- {apiGroups: [gateway.networking.k8s.io], resources: [gateways, httproutes, referencegrants], verbs: [list, watch]}
- {apiGroups: [""], resources: [services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
{{- if ne $config.writeStatus false }}
- {apiGroups: [gateway.networking.k8s.io], resources: [gateways/status, httproutes/status], verbs: [patch]}
- apiGroups: [inference.networking.k8s.io, inference.networking.x-k8s.io]
  resources: [inferencepools/status]
  verbs: [patch]
{{- end }}
{{- with .Values.gatewayApi.certificates }}
{{- if .any }}
- {apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}
{{- else if .secrets }}
- {apiGroups: [""], resources: [secrets], resourceNames: {{ toJson .secrets }}, verbs: [get, list, watch]}
{{- end }}
{{- end }}
{{- end -}}

{{/* The grace period must be longer than the drain, or requests in flight are killed. */}}
{{- define "hermes.grace" -}}
{{- $least := add .values.preStopSeconds .values.drainSeconds 5 -}}
{{- $given := default $least .values.terminationGracePeriodSeconds -}}
{{- if lt (int $given) (int $least) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is %v; give at least preStopSeconds + drainSeconds + 5 = %v, or leave it out" .name $given $least) -}}
{{- end -}}
{{- $given -}}
{{- end -}}

{{/* Scheduling of a component's pods. */}}
{{- define "hermes.placement" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity: {{- toYaml .values.affinity | nindent 2 }}
{{- else if eq .values.antiAffinity "preferred" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "hermes.selector" . | nindent 12 }}
{{- else if eq .values.antiAffinity "required" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels: {{- include "hermes.selector" . | nindent 10 }}
{{- end }}
topologySpreadConstraints:
{{- with .values.topologySpreadConstraints }}
{{- toYaml . | nindent 0 }}
{{- else }}
- topologyKey: topology.kubernetes.io/zone
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "hermes.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Meets the Pod Security Standard "restricted". 65532 is the user of the images. */}}
{{- define "hermes.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "hermes.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The environment of both planes: identity, logs, traces. */}}
{{- define "hermes.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- {name: HERMES_LOG, value: {{ .root.Values.log.level | quote }}}
- {name: HERMES_LOG_FORMAT, value: {{ .root.Values.log.format | quote }}}
{{- with .root.Values.otel }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
{{- with .sampler }}
- {name: OTEL_TRACES_SAMPLER, value: {{ . | quote }}}
{{- end }}
{{- with .samplerArg }}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }}}
{{- end }}
{{- $attributes := list "k8s.namespace.name=$(POD_NAMESPACE)" "k8s.pod.name=$(POD_NAME)" }}
{{- range $name, $value := .resourceAttributes }}
{{- $attributes = append $attributes (printf "%s=%v" $name $value) }}
{{- end }}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $attributes | quote }}}
{{- with .headersSecret }}
{{- if .name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of a part's pods; the argument `port` is that of the admin pages. */}}
{{- define "hermes.podAnnotations" -}}
{{- $scraped := dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .port) "prometheus.io/path" "/metrics" -}}
{{- $annotations := merge (deepCopy .values.podAnnotations) (ternary $scraped dict .root.Values.monitoring.annotations) -}}
{{- with $annotations }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{- define "hermes.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  # Probes every second while starting; a failing pod is ejected by its clients.
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end -}}
