{{- define "engines.fullname" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 30 | trimSuffix "-" -}}
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

{{/*
=== What differs between engines ===

Each of these gives, as YAML: `image`, `command` (if the image's own does not fit), `args`, `env`, `files` (where models
are kept in the container) and `sharedMemory` (whether its processes need more of it than a pod has).
*/}}

{{- define "engines.vllm" -}}
image: vllm/vllm-openai:v0.32.0
files: /models
env:
- {name: HF_HOME, value: /models}
sharedMemory: true
args:
- --model={{ .engine.model }}
- --host=0.0.0.0
- --port=8000
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
command: [python3, -m, sglang.launch_server]
args:
- --model-path={{ .engine.model }}
- --host=0.0.0.0
- --port=8000
# Metrics and cached tokens in responses are off by default.
- --enable-metrics
- --enable-cache-report
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
args:
- engine
- --listen=0.0.0.0:8000
- --model={{ default .engine.model .engine.servedModelName }}
{{- if .engine.kvEvents }}
- --kv-events-port=5557
- --kv-events-replay-port=5558
{{- end }}
{{- with .root.Values.otel }}
{{- if .endpoint }}
env:
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
