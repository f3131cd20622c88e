{{- define "engines.fullname" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{/*
The entries of `engines`, as a list. One with `disaggregation` is two: its prefill and its decode engines, each with what
both have in common, and with `pairing`, which is `disaggregation` without them.
*/}}
{{- define "engines.entries" -}}
{{- $entries := list -}}
{{- range $entry := .Values.engines -}}
{{- if $entry.disaggregation -}}
{{- include "engines.sameLease" (dict "root" $ "engine" $entry) -}}
{{- $pool := default $entry.name $entry.pool -}}
{{- range $role := list "prefill" "decode" -}}
{{- $own := index $entry.disaggregation $role -}}
{{- $common := omit (deepCopy $entry) "disaggregation" "args" "env" -}}
{{- $of := dict "name" (printf "%s-%s" $entry.name $role) "pool" $pool "role" $role -}}
{{- range $key := list "args" "env" -}}
{{- $of = set $of $key (concat (default list (index $entry $key)) (default list (index $own $key))) -}}
{{- end -}}
{{- $of = set $of "pairing" (omit $entry.disaggregation "prefill" "decode") -}}
{{- $entries = append $entries (mergeOverwrite $common (omit $own "args" "env") $of) -}}
{{- end -}}
{{- else -}}
{{- $entries = append $entries $entry -}}
{{- end -}}
{{- end -}}
{{- toYaml $entries -}}
{{- end -}}

{{/* Fails if the router, in the same file of values, has another lease: it would use handoffs that are gone. */}}
{{- define "engines.sameLease" -}}
{{- $name := default .engine.name .engine.pool -}}
{{- $own := printf "%ds" (int (default 30 .engine.disaggregation.lease)) -}}
{{- $config := default dict .root.Values.config -}}
{{- range $pool := default list $config.pools -}}
{{- $its := default dict $pool.disaggregation -}}
{{- if and (eq $pool.name $name) (eq (default "" $its.dialect) "vllm-nixl") -}}
{{- $lease := default "30s" $its.lease -}}
{{- if and (regexMatch "^[0-9]+s$" $lease) (ne $lease $own) -}}
{{- fail (printf "engines: `%s` has the lease %s, and config.pools of that name %s: set both alike" $name $own $lease) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Below, the argument is a dict of `root` (the chart's context) and `engine` (an entry of `engines`). */}}
{{- define "engines.name" -}}
{{- printf "%s-%s" (include "engines.fullname" .root) .engine.name -}}
{{- end -}}

{{- define "engines.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .engine.name }}
{{- end -}}

{{/* Labels for discovery, on the Service and on its pods, since a pool may select either. */}}
{{- define "engines.labels" -}}
{{ include "engines.selector" . }}
app: {{ ternary "vllm" .engine.engine (eq .engine.engine "simulated") }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
hermes.ai/pool: {{ default .engine.name .engine.pool }}
{{- with .engine.role }}
hermes.ai/role: {{ . }}
{{- end }}
{{- with .engine.group }}
hermes.ai/group: {{ . | quote }}
{{- end }}
{{- with .engine.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What the router reads of a pod that is an engine of pairs. */}}
{{- define "engines.pairAnnotations" -}}
{{- with .engine.pairing -}}
hermes.ai/engine-version: {{ include "engines.version" $ | quote }}
{{- if and (has .dialect (list "sglang" "vllm-mooncake")) (eq $.engine.role "prefill") }}
hermes.ai/bootstrap-port: "8998"
{{- end }}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* The release of an engine of pairs: what is set, else the tag of its image. Only equal ones are paired. */}}
{{- define "engines.version" -}}
{{- $own := include (printf "engines.%s" .engine.engine) . | fromYaml -}}
{{- $tag := default $own.image .engine.image | splitList ":" | last -}}
{{- $known := ternary (include "engines.simulatedVersion" .) $tag (eq .engine.engine "simulated") -}}
{{- default $known .engine.pairing.engineVersion -}}
{{- end -}}

{{/* The port at which a simulated prefill engine is found by decode engines. */}}
{{- define "engines.simulatedPort" -}}
{{- ternary 8998 5600 (has .engine.pairing.dialect (list "sglang" "vllm-mooncake")) -}}
{{- end -}}

{{/* The release that a simulated engine of pairs claims to be. */}}
{{- define "engines.simulatedVersion" -}}
{{- default "0.32.0" .engine.pairing.engineVersion -}}
{{- end -}}

{{/*
=== What differs between engines ===

Each of these gives, as YAML: `image`, `command` (if the image's own does not fit), `args`, `env`, `files` (where models
are kept in the container), `sharedMemory` (whether its processes need more of it than a pod has) and `sideChannel` (the
port where prefill engines are found by decode engines).
*/}}

{{- define "engines.vllm" -}}
image: vllm/vllm-openai:v0.32.0
files: /models
{{- $pairing := default dict .engine.pairing }}
{{- $isNixl := eq (default "" $pairing.dialect) "vllm-nixl" }}
{{- if $pairing }}
sideChannel: {{ ternary 5600 8998 $isNixl }}
{{- end }}
env:
- {name: HF_HOME, value: /models}
{{- if and $pairing (not $isNixl) }}
- {name: VLLM_MOONCAKE_BOOTSTRAP_PORT, value: "8998"}
{{- end }}
{{- if $isNixl }}
# Its default is `localhost`, where decode engines would find themselves.
- {name: VLLM_NIXL_SIDE_CHANNEL_HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: VLLM_NIXL_SIDE_CHANNEL_PORT, value: "5600"}
{{- end }}
sharedMemory: true
args:
- --model={{ .engine.model }}
- --host=0.0.0.0
- --port=8000
{{- with .engine.pairing }}
{{- $kvRole := ternary "kv_producer" "kv_consumer" (eq $.engine.role "prefill") }}
{{- $transfer := dict "kv_connector" "MooncakeConnector" "kv_role" $kvRole }}
{{- if $isNixl }}
{{- $lease := dict "kv_lease_duration" (int (default 30 .lease)) }}
{{- $transfer = dict "kv_connector" "NixlConnector" "kv_role" $kvRole "kv_connector_extra_config" $lease }}
{{- end }}
- --kv-transfer-config={{ $transfer | toJson }}
{{- end }}
# Without it responses do not report cached tokens, and the router cannot verify its cache estimates.
- --enable-prompt-tokens-details
{{- with .engine.servedModelName }}
- --served-model-name={{ . }}
{{- end }}
{{- if .engine.kvEvents }}
- --kv-events-config={"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}
{{- end }}
{{- with .root.Values.otel.endpoint }}
- --otlp-traces-endpoint={{ . }}
{{- end }}
{{- end -}}

{{- define "engines.sglang" -}}
image: lmsysorg/sglang:v0.5.23
files: /models
env:
- {name: HF_HOME, value: /models}
sharedMemory: true
{{- if .engine.pairing }}
sideChannel: 8998
{{- end }}
command: [python3, -m, sglang.launch_server]
args:
- --model-path={{ .engine.model }}
- --host=0.0.0.0
- --port=8000
# Metrics and cached tokens in responses are off by default.
- --enable-metrics
- --enable-cache-report
{{- if .engine.pairing }}
- --disaggregation-mode={{ .engine.role }}
{{- if eq .engine.role "prefill" }}
- --disaggregation-bootstrap-port=8998
{{- end }}
{{- end }}
{{- with .engine.servedModelName }}
- --served-model-name={{ . }}
{{- end }}
{{- if .engine.kvEvents }}
- --kv-events-config={"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}
{{- end }}
{{- end -}}

{{- define "engines.tgi" -}}
image: ghcr.io/huggingface/text-generation-inference:3.3.6
files: /data
sharedMemory: true
args:
- --model-id={{ .engine.model }}
- --hostname=0.0.0.0
- --port=8000
{{- end -}}

{{- define "engines.llamacpp" -}}
image: ghcr.io/ggml-org/llama.cpp:server
files: /models
env:
- {name: LLAMA_CACHE, value: /models}
args:
- --{{ ternary "model" "hf-repo" (hasPrefix "/" .engine.model) }}={{ .engine.model }}
- --host=0.0.0.0
- --port=8000
- --metrics
- --alias={{ default .engine.model .engine.servedModelName }}
{{- end -}}

{{- define "engines.simulated" -}}
{{- $image := .root.Values.image -}}
{{- $prefix := ternary (printf "%s/" (trimSuffix "/" $image.registry)) "" (ne $image.registry "") -}}
image: {{ $prefix }}{{ $image.repository }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- with .engine.pairing }}
sideChannel: {{ include "engines.simulatedPort" $ }}
{{- end }}
args:
- engine
- --listen=0.0.0.0:8000
- --model={{ default .engine.model .engine.servedModelName }}
{{- with .engine.pairing }}
- --role={{ $.engine.role }}
- --protocol={{ .dialect }}
- --lease={{ int (default 30 .lease) }}
- --side-channel-port={{ include "engines.simulatedPort" $ }}
- --engine-version={{ include "engines.simulatedVersion" $ }}
{{- end }}
{{- if .engine.kvEvents }}
- --kv-events-port=5557
- --kv-events-replay-port=5558
{{- end }}
{{- if or .engine.pairing .root.Values.otel.endpoint }}
env:
{{- end }}
{{- with .engine.pairing }}
- {name: VLLM_NIXL_SIDE_CHANNEL_HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end }}
{{- with .root.Values.otel }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
- {name: OTEL_SERVICE_NAME, value: hermes-engine}
{{- end }}
{{- end }}
{{- end -}}

{{/* Storage for models: an existing claim, a folder of the node, a claim per pod, or none. */}}
{{- define "engines.storage" -}}
{{- $storage := default dict .engine.storage -}}
{{- if $storage.claim -}}
persistentVolumeClaim: {claimName: {{ $storage.claim }}}
{{- else if $storage.hostPath -}}
hostPath: {path: {{ $storage.hostPath | quote }}, type: DirectoryOrCreate}
{{- else if $storage.size -}}
ephemeral:
  volumeClaimTemplate:
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $storage.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources: {requests: {storage: {{ $storage.size }}}}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end -}}

{{/* The resources of an engine with its GPUs. */}}
{{- define "engines.resources" -}}
{{- $resources := deepCopy (default dict .engine.resources) -}}
{{- with .engine.gpus -}}
{{- $gpus := dict (default "nvidia.com/gpu" $.engine.gpuResource) . -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
