//! What is rejected for its value or for its relation to other keys, each with its message.

use hermes_control_plane::config::Config;

/// A document and its errors, in their order.
type Rejected = (&'static str, &'static [&'static str]);

const REJECTED: [Rejected; 40] = [
    (
        "listeners: [{name: web, address: '0.0.0.0:20005'}]
gatewayApi: {service: {selector: {app: proxy}}}",
        &[
            "listeners[0]: the port 20005 is one of `gatewayApi.service.portRange`; change one of the two",
        ],
    ),
    (
        "",
        &[
            "found nothing; expected a mapping with the keys pools, app, inferencePools, gatewayApi, routes, listeners, limits, exposeEndpoint, extraPaths, corsOrigins",
        ],
    ),
    (
        "[]",
        &[
            "found a list of 0; expected a mapping with the keys pools, app, inferencePools, gatewayApi, routes, listeners, limits, exposeEndpoint, extraPaths, corsOrigins",
        ],
    ),
    (
        "{}",
        &[
            "pools: missing; set at least one pool, the block `app`, `inferencePools` or `gatewayApi`",
        ],
    ),
    (
        "config: {pools: []}",
        &[
            "pools: missing; set at least one pool, the block `app`, `inferencePools` or `gatewayApi`",
            "config: unknown key; move what is under it to the top level of the file",
        ],
    ),
    (
        "pools: []",
        &["pools: found a list of 0; expected a list of 1 to 256 pools"],
    ),
    (
        "pools: [{}]",
        &[
            "pools[0].name: missing; set 1 to 63 characters of a-z, 0-9 and -",
            "pools[0].endpoints: missing; set static URLs here, or `kubernetes`",
        ],
    ),
    (
        "replicas: 3\nexposeEndpoints: true",
        &[
            "pools: missing; set at least one pool, the block `app`, `inferencePools` or `gatewayApi`",
            "exposeEndpoints: unknown key; did you mean `exposeEndpoint`?",
            "replicas: unknown key; the keys here are pools, app, inferencePools, gatewayApi, routes, listeners, limits, exposeEndpoint, extraPaths, corsOrigins",
        ],
    ),
    (
        "app: {}\napp: {timeout: 0}\npools: [",
        &[
            "app: duplicate key; set it once",
            "not a YAML document at line 3, column 8: unclosed bracket '['; expected one YAML mapping",
        ],
    ),
    (
        "app: {}\napp: {timeout: 0, timeout: 0}",
        &[
            "app: duplicate key; set it once",
            "app.timeout: duplicate key; set it once",
            "app.timeout: found `0`; expected a duration from 10ms to 1d, such as 50ms, 2s or 1m30s",
        ],
    ),
    (
        "pools: [{name: -a, endpoints: ['http://h:1']}, {name: Chat, endpoints: ['http://h:1']}]",
        &[
            "pools[0].name: found `-a`; expected 1 to 63 characters of a-z, 0-9 and -",
            "pools[1].name: found `Chat`; expected 1 to 63 characters of a-z, 0-9 and -",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1']}, {name: a, endpoints: ['http://h:2']}]",
        &[
            "pools[1]: the name `a` is used by pools[0]; give every pool its own name (the block `app` becomes the pool `default`)",
        ],
    ),
    (
        "app: {}\npools: [{name: default, endpoints: ['http://h:1']}]",
        &[
            "app: the name `default` is used by pools[0]; give every pool its own name (the block `app` becomes the pool `default`)",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['https://h:1', 'h:1', 'http://h:0', 'http://h_:1', 'http://h:1?q', 'http://h:1/a/../b', 'ftp://h']}]",
        &[
            "pools[0].endpoints[1]: found `h:1`; expected http:// or https://, as in http://10.0.0.7:8000",
            "pools[0].endpoints[2]: found `http://h:0`; expected a port from 1 to 65535, as in http://10.0.0.7:8000",
            "pools[0].endpoints[4]: found `http://h:1?q`; remove the query and the fragment",
            "pools[0].endpoints[5]: found `http://h:1/a/../b`; expected a path such as /proxy, of at most 1024 letters, digits and -._~!$&'()*+,;=:@, without the parts `.`, `..` and the empty one",
            "pools[0].endpoints[6]: found `ftp://h`; expected http:// or https://, as in http://10.0.0.7:8000",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://user:secret@h:1', 'http://h', 'http://H:80/']}]",
        &[
            "pools[0].endpoints[0]: found `…@h:1`; remove user and password",
            "pools[0].endpoints[2]: found `http://H:80/`; remove it: it is in the list already",
        ],
    ),
    (
        "pools: [{name: a, models: [m, m, 7], endpoints: ['http://h:1']}]",
        &[
            "pools[0].models[1]: found `m`; remove it: it is in the list already",
            "pools[0].models[2]: found `7`; expected a model's name, in quotes",
        ],
    ),
    (
        "pools: [{name: a, kubernetes: {port: 8000}}]",
        &[
            "pools[0].kubernetes.services: missing, and so is `pods`; set the labels of one of the two",
        ],
    ),
    (
        "pools: [{name: a, kubernetes: {services: {a: b}, pods: {a: b}}}]",
        &[
            "pools[0].kubernetes.port: missing; set the port that serves inference, by number or by name",
            "pools[0].kubernetes.services: set as well as `pods`; set the labels of one of the two",
        ],
    ),
    (
        "pools: [{name: a, kubernetes: {pods: {}, port: 0, namespace: A}}]",
        &[
            "pools[0].kubernetes.namespace: found `A`; expected a namespace's name: 1 to 63 characters of a-z, 0-9 and -",
            "pools[0].kubernetes.pods: found a mapping; expected label names and values, such as {app: vllm}",
            "pools[0].kubernetes.port: found `0`; expected a port from 1 to 65535, or a port's name: a-z, 0-9 and -, with a letter",
        ],
    ),
    (
        "pools: [{name: a, kubernetes: {pods: {-a: b, c: 1, d: e f}, port: Http}}]",
        &[
            "pools[0].kubernetes.pods.-a: not a label's name; expected one such as app or app.kubernetes.io/name",
            "pools[0].kubernetes.pods.c: found `1`; expected a label's value, in quotes",
            "pools[0].kubernetes.pods.d: found `e f`; expected a label's value: at most 63 characters of A-Z, a-z, 0-9, -, _ and .",
            "pools[0].kubernetes.port: found `Http`; expected a port from 1 to 65535, or a port's name: a-z, 0-9 and -, with a letter",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: kv-awear}]",
        &[
            "pools[0].strategy: found `kv-awear`; did you mean kv-aware? The strategies are kv-aware, round-robin, random, least-request, power-of-two, session-affinity, prefix-cache, hermes-classic",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: prefix-cashe}]",
        &[
            "pools[0].strategy: found `prefix-cashe`; did you mean prefix-cache? The strategies are kv-aware, round-robin, random, least-request, power-of-two, session-affinity, prefix-cache, hermes-classic",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: {weights: {}}}]",
        &[
            "pools[0].strategy.name: missing; set one of kv-aware, round-robin, random, least-request, power-of-two, session-affinity, prefix-cache, hermes-classic",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: rr, weights: {}, loadFactor: 2}}]",
        &[
            "pools[0].strategy.weights: a setting of hermes-classic, and the strategy is round-robin; remove it, or choose the other strategy",
            "pools[0].strategy.loadFactor: a setting of session-affinity and prefix-cache, and the strategy is round-robin; remove it, or choose the other strategy",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: hermes-classic, weights: {miss: 1, kvCacheHitNotRateWeight: 1}}}]",
        &[
            "pools[0].strategy.weights.kvCacheHitNotRateWeight: the same key as `miss`; set only one of the two",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: hermes-classic, weights: {miss: 0, usage: 0, waiting: 0, inFlight: 0}}}]",
        &[
            "pools[0].strategy.weights: every weight is 0; set at least one above 0, or use the strategy random",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: session-affinity, keys: [user, user, ip, 'header:a b', 'header:Authorization']}}]",
        &[
            "pools[0].strategy.keys[1]: found `user`; remove it: it is in the list already",
            "pools[0].strategy.keys[2]: found `ip`; expected `user`, `key` or `header:NAME`",
            "pools[0].strategy.keys[3]: found `header:a b`; expected `user`, `key` or `header:NAME`",
            "pools[0].strategy.keys[4]: found `header:Authorization`; use `key`: the credential, hashed before it leaves the proxy",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], ejection: {baseTime: 1m}, metrics: {path: metrics, staleAfter: 1s}}]",
        &[
            "pools[0].metrics.path: found `metrics`; expected a path such as /metrics",
            "pools[0].metrics.staleAfter: not longer than `interval`; set it to at least two intervals",
            "pools[0].ejection.maxTime: shorter than `baseTime`; set it to at least `baseTime`",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {}}]",
        &[
            "pools[0].kvManager.url: missing; set a URL such as http://cache-indexer-service:8080/match_sort",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'https://m', protocol: conductor, kind: match-sort}}]",
        &[
            "pools[0].kvManager.kind: the same key as `protocol`; set only one of the two",
            "pools[0].kvManager.url: found `https://m`; expected http:// (a KV manager is asked over plain HTTP)",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://m:1/a', port: 2, path: /b, idKeys: [x, x]}}]",
        &[
            "pools[0].kvManager.port: another port than in `url`; set the port once",
            "pools[0].kvManager.path: another path than in `url`; set the path once",
            "pools[0].kvManager.idKeys[1]: found `x`; remove it: it is in the list already",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://m/a/../b', path: match_sort}}]",
        &[
            "pools[0].kvManager.path: found `match_sort`; expected a path such as /match_sort",
            "pools[0].kvManager.url: found `http://m/a/../b`; expected a path such as /match_sort instead of /a/../b",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvEvents: {port: 1, replayPort: 1, portName: A, replayPortName: '1'}}]",
        &[
            "pools[0].kvEvents.portName: found `A`; expected a port's name: a-z, 0-9 and -, with a letter",
            "pools[0].kvEvents.replayPortName: found `1`; expected a port's name: a-z, 0-9 and -, with a letter",
            "pools[0].kvEvents.replayPort: the same as `port`; set the port of the replay socket, or 0 if there is none",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://c/', protocol: conductor, conductor: {instances: {i: nowhere}, register: {port: 65535, ranks: 2}}}}]",
        &[
            "pools[0].kvManager.conductor.instances.i: found `nowhere`; expected an address such as 10.0.0.7:8000",
            "pools[0].kvManager.conductor.register.ranks: the last rank's port would be over 65535; set fewer ranks, or a lower `port`",
            "pools[0].tokenizer: missing; a conductor needs token ids: set the model's `path`, or `engine: true`",
        ],
    ),
    (
        "pools: [{name: a, endpoints: ['http://h:1'], tokenizer: {engine: true, path: /m}}, {name: b, endpoints: ['http://i:1'], tokenizer: {template: /t}}]",
        &[
            "pools[0].tokenizer.engine: set as well as `path`; set only one of the two",
            "pools[1].tokenizer.path: missing; set the directory of the model, or `engine: true`",
        ],
    ),
    (
        "pools: [{name: a, engine: tgi, endpoints: ['http://h:1'], tokenizer: {engine: true}}]",
        &[
            "pools[0].tokenizer.engine: the engine tgi has no `/tokenize`; set `path`, the directory of the model",
        ],
    ),
    (
        "app: {strategy: {name: hermes-classic, weights: {}}, weights: {}}",
        &["app.weights: weights are set in `strategy` too; set them once"],
    ),
    (
        "app: {kvmanager: {}, discovery: {type: dns}, collector: {metrics: [1]}}",
        &[
            "app.discovery.type: found `dns`; expected one of k8s-service",
            "app.collector.metrics[0]: found `1`; expected a metric's name, in quotes",
            "app.kvmanager.url: missing; set a URL such as http://cache-indexer-service, or remove `kvmanager`",
        ],
    ),
    (
        "app: {labelSelector: {app: vllm}, timeOut: 120, kvmanager: {path: /match_sort, url: 'http://m'}}",
        &[
            "app.kvmanager.path: unknown key; did you mean `matchPath`?",
            "app.labelSelector: unknown key; the keys here are namespace, strategy, weights, timeout, discovery, collector, kvmanager",
            "app.timeOut: unknown key; did you mean `timeout`?",
        ],
    ),
    (
        "app: {}\nextraPaths: [v2, /a/../b, /a, /a]",
        &[
            "extraPaths[0]: found `v2`; expected a path such as /v2/embed, without a query",
            "extraPaths[1]: found `/a/../b`; expected a path such as /v2/embed, without a query",
            "extraPaths[3]: found `/a`; remove it: it is in the list already",
        ],
    ),
];

#[test]
fn every_contradiction_is_reported_with_its_path_and_what_to_do() {
    let mut wrong = String::new();
    for (document, expected) in REJECTED {
        let errors = Config::parse(document).expect_err(document);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if found != expected {
            wrong.push_str(&format!(
                "    (\n        {document:?},\n        &{found:#?},\n    ),\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "these are reported instead:\n{wrong}");
}
