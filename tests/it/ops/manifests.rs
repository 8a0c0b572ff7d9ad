//! The Dockerfile and the manifests: read by hadolint and Kubernetes' schemas, and what they refer to is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{files, ok, python, read, root, texts, yaml};
use crate::support::{run, said, segue};

/// The oldest Kubernetes that the manifests are for.
const KUBERNETES: &str = "1.32";

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let hadolint = root().join("tests/ops/python/bin/hadolint");
    let lint =
        |file: &Path| Command::new(&hadolint).arg("-c").arg(root().join(".hadolint.yaml")).arg(file).output().unwrap();
    let clean = lint(&root().join("Dockerfile"));
    assert!(clean.status.success(), "{}", said(&clean));
    // It does look.
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("Dockerfile");
    fs::write(&bad, read("Dockerfile").replace("FROM debian:bookworm-slim AS base", "FROM debian AS base")).unwrap();
    assert!(!lint(&bad).status.success());
}

#[test]
fn the_images_run_as_nobody_and_the_origin_has_no_gstreamer() {
    let text = read("Dockerfile");
    let stages: Vec<&str> = text.split("\nFROM ").skip(1).collect();
    let stage = |name: &str| {
        let found = stages.iter().find(|stage| stage.lines().next().unwrap().ends_with(&format!(" AS {name}")));
        *found.unwrap_or_else(|| panic!("no stage {name}"))
    };
    for target in ["origin", "full"] {
        assert!(stage(target).starts_with("base ") && stage(target).contains("\nUSER 10001:10001\n"), "{target}");
    }
    assert!(stage("base").contains("HEALTHCHECK") && stage("base").contains("CMD [\"segue\", \"health\"]"));
    assert!(!stage("base").contains("gstreamer") && !stage("origin").contains("gstreamer"));
    assert!(stage("build-origin").contains("--no-default-features"));
    // What a file of another stage is copied from is made there.
    for target in ["origin", "full"] {
        assert!(stage(target).contains(&format!("COPY --from=build-{target} /out/segue ")));
        assert!(stage(&format!("build-{target}")).contains("/out/segue"));
    }
    // The plugins are those that `.ci/setup run` installs, which all tests run with.
    let setup = read(".ci/setup");
    let plugins = setup.split("readonly RUN_PACKAGES=(").nth(1).unwrap().split(')').next().unwrap();
    for plugin in plugins.split_whitespace() {
        assert!(stage("full").contains(&format!(" {plugin} ")), "{plugin} is missing in the image");
    }
}

/// Manifests that Kubernetes itself knows.
fn manifests() -> Vec<PathBuf> {
    let foreign = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = path.to_str().unwrap();
        name == "kustomization.yaml"
            || text.contains("/rules/")
            || text.contains("components/operator/")
            || name == "config.yaml"
    };
    files("k8s", ".yaml").into_iter().filter(|path| !foreign(path)).collect()
}

fn validate(paths: &[PathBuf]) -> (bool, String) {
    let mut command = python();
    command
        .args(["-m", "kubernetes_validate", "--strict", "-k", KUBERNETES])
        .args(paths.iter().map(|path| root().join(path)));
    let output = command.output().unwrap();
    (output.status.success(), said(&output))
}

#[test]
fn kubernetes_takes_the_manifests() {
    let (valid, told) = validate(&manifests());
    assert!(valid, "{told}");
    assert!(told.matches("passed for resource").count() >= 15, "{told}");
    // It does look: a key that there is not, and a number that is a text.
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("origin.yaml");
    for (from, to) in [("minReplicas: 3", "minReplica: 3"), ("containerPort: 8080", "containerPort: many")] {
        let text = read("k8s/base/origin.yaml");
        assert!(text.contains(from));
        fs::write(&bad, text.replace(from, to)).unwrap();
        assert!(!validate(std::slice::from_ref(&bad)).0, "{to}");
    }
}

/// Composed by kustomize, where there is a kubectl that brings one; what it is composed of is checked anyway.
#[test]
fn kubernetes_takes_what_the_overlays_compose() {
    for overlay in ["production", "staging"] {
        let composed = Command::new("kubectl").arg("kustomize").arg(root().join("k8s/overlays").join(overlay)).output();
        let Ok(composed) = composed else {
            eprintln!("not tried: there is no kubectl here");
            return;
        };
        assert!(composed.status.success(), "{overlay}: {}", said(&composed));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("composed.yaml");
        fs::write(&path, composed.stdout).unwrap();
        let all = yaml(std::slice::from_ref(&path));
        let ours: Vec<&Value> = all
            .iter()
            .filter(|object| !object["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com"))
            .collect();
        let json = dir.path().join("ours.yaml");
        let text: Vec<String> = ours.iter().map(|object| object.to_string()).collect();
        fs::write(&json, text.join("\n---\n")).unwrap();
        let (valid, told) = validate(std::slice::from_ref(&json));
        assert!(valid, "{overlay}: {told}");
        refer(&all);
        let maps = all.iter().filter(|object| object["kind"] == "ConfigMap");
        let settings = maps.filter_map(|map| map["data"]["segue.toml"].as_str()).collect::<Vec<_>>();
        let [settings] = settings[..] else { panic!("one segue.toml: {settings:?}") };
        for deployment in all.iter().filter(|object| object["kind"] == "Deployment") {
            check_settings(settings, deployment);
            let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
            assert!(image.contains('/') && image.contains(':'), "{overlay} names no registry and tag: {image}");
        }
    }
}

#[test]
fn what_the_base_refers_to_is_there() {
    let mut all = yaml(&manifests().into_iter().filter(|path| path.starts_with("k8s/base")).collect::<Vec<_>>());
    // What the generators of the base make.
    for map in ["segue", "segue-rules", "segue-dashboards"] {
        all.push(json!({"kind": "ConfigMap", "metadata": {"name": map}}));
    }
    refer(&all);
    for file in files("k8s", "kustomization.yaml") {
        let kustomization = yaml(std::slice::from_ref(&file)).remove(0);
        let dir = root().join(file.parent().unwrap());
        let lists = ["resources", "components"].iter().filter_map(|key| kustomization[key].as_array());
        let generated = kustomization["configMapGenerator"].as_array().into_iter().flatten();
        let generated = generated.filter_map(|map| map["files"].as_array());
        for name in lists.chain(generated).flatten() {
            assert!(dir.join(name.as_str().unwrap()).exists(), "{}: {name}", file.display());
        }
        // And nothing lies beside that nobody reads.
        let used = texts(&kustomization).join("\n") + &fs::read_to_string(root().join(&file)).unwrap();
        for beside in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
            assert!(
                beside == "kustomization.yaml" || used.contains(&beside),
                "{}: {beside} is used by nobody",
                file.display()
            );
        }
    }
    let workloads = all.iter().filter(|object| matches!(object["kind"].as_str(), Some("Deployment" | "Job")));
    let workloads: Vec<&Value> = workloads.collect();
    assert_eq!(workloads.len(), 4);
    let settings = read("k8s/base/segue.toml");
    for workload in workloads {
        check_settings(&settings, workload);
    }
    for overlay in ["production", "staging"] {
        let text = read(format!("k8s/overlays/{overlay}/segue.toml"));
        let keys = |text: &str| -> BTreeSet<String> {
            let mut section = String::new();
            let mut keys = BTreeSet::new();
            for line in text.lines() {
                if let Some(name) = line.strip_prefix('[') {
                    section = name.trim_end_matches(']').to_owned();
                } else if let Some((key, _)) = line.split_once(" = ") {
                    keys.insert(format!("{section}.{key}"));
                }
            }
            keys
        };
        assert_eq!(keys(&text), keys(&settings), "{overlay} replaces the base's settings and must have all of them");
    }
}

/// Names, selectors and ports of objects that belong together.
fn refer(all: &[Value]) {
    let of = |kind: &str| -> Vec<&Value> { all.iter().filter(|object| object["kind"] == kind).collect() };
    let has = |kind: &str, name: &Value| of(kind).iter().any(|object| object["metadata"]["name"] == *name);
    let workloads: Vec<&Value> = of("Deployment").into_iter().chain(of("Job")).collect();
    let selects = |labels: &Value, pod: &Value| {
        labels.as_object().unwrap().iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
    };
    let pods: Vec<&Value> = workloads.iter().map(|workload| &workload["spec"]["template"]).collect();
    for deployment in of("Deployment") {
        let name = &deployment["metadata"]["name"];
        assert!(selects(&deployment["spec"]["selector"]["matchLabels"], &deployment["spec"]["template"]), "{name}");
        let scaler =
            of("HorizontalPodAutoscaler").into_iter().find(|one| one["spec"]["scaleTargetRef"]["name"] == *name);
        assert!(scaler.is_some(), "{name} is scaled by nobody");
        let budget = of("PodDisruptionBudget").into_iter().find(|one| one["metadata"]["name"] == *name);
        let budget = budget.unwrap_or_else(|| panic!("{name} has no budget"));
        assert!(selects(&budget["spec"]["selector"]["matchLabels"], &deployment["spec"]["template"]), "{name}");
    }
    for scaler in of("HorizontalPodAutoscaler") {
        assert!(has("Deployment", &scaler["spec"]["scaleTargetRef"]["name"]), "{scaler}");
        assert!(scaler["spec"]["minReplicas"].as_u64() <= scaler["spec"]["maxReplicas"].as_u64(), "{scaler}");
    }
    for service in of("Service") {
        let chosen: Vec<_> = pods.iter().filter(|pod| selects(&service["spec"]["selector"], pod)).collect();
        let [pod] = chosen[..] else { panic!("{} chooses {} workloads", service["metadata"]["name"], chosen.len()) };
        for port in service["spec"]["ports"].as_array().unwrap() {
            let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
            assert!(ports.iter().any(|known| known["name"] == port["targetPort"]), "{service}");
        }
    }
    for ingress in of("Ingress") {
        for rule in ingress["spec"]["rules"].as_array().unwrap() {
            for path in rule["http"]["paths"].as_array().unwrap() {
                assert!(has("Service", &path["backend"]["service"]["name"]), "{path}");
            }
        }
    }
    for policy in of("NetworkPolicy") {
        let labels = &policy["spec"]["podSelector"]["matchLabels"];
        assert!(pods.iter().any(|pod| selects(labels, pod)), "{} is about nobody", policy["metadata"]["name"]);
    }
    for workload in workloads {
        let (name, pod) = (&workload["metadata"]["name"], &workload["spec"]["template"]["spec"]);
        assert!(has("ServiceAccount", &pod["serviceAccountName"]), "{name}");
        let security = &pod["securityContext"];
        assert_eq!((&security["runAsNonRoot"], &security["runAsUser"]), (&json!(true), &json!(10001)), "{name}");
        assert!(
            security["seccompProfile"]["type"].is_string() && pod["automountServiceAccountToken"] == false,
            "{name}"
        );
        let volumes = pod["volumes"].as_array().unwrap();
        for volume in volumes {
            let config = &volume["configMap"]["name"];
            assert!(config.is_null() || has("ConfigMap", config), "{name}: {config}");
            let secret = &volume["secret"]["secretName"];
            assert!(secret.is_null() || secret == "segue", "{name}: {secret}");
        }
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert!(
                security["readOnlyRootFilesystem"] == true && security["allowPrivilegeEscalation"] == false,
                "{name}"
            );
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            assert!(container["resources"]["requests"]["cpu"].is_string(), "{name}");
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{name}: {mount}");
            }
            if workload["kind"] == "Deployment" {
                let probes = ["startupProbe", "livenessProbe", "readinessProbe"]
                    .map(|probe| &container[probe]["httpGet"]["path"]);
                assert_eq!(probes, ["/livez", "/livez", "/readyz"], "{name}");
                // The drain is over before the kubelet's patience is: preStop, server.drain_s, and some.
                assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(5 + 30 + 5), "{name}");
            }
        }
    }
}

/// Runs the program with the settings and the environment of a workload, its secrets in files as they are mounted.
fn check_settings(settings: &str, workload: &Value) {
    let dir = tempfile::tempdir().unwrap();
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let name = &workload["metadata"]["name"];
    let file = dir.path().join("segue.toml");
    fs::write(&file, settings).unwrap();
    let documented = read("docs/OPERATIONS.md");
    let mut command = segue();
    for variable in container["env"].as_array().unwrap() {
        let (variable, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        let Some(secret) = value.strip_prefix("/run/secrets/segue/") else {
            command.env(variable, value);
            continue;
        };
        assert!(documented.contains(&format!("| `{secret}` |")), "docs/OPERATIONS.md does not say what {secret} is");
        let text = match secret {
            "bunny-keys" => "0123456789abcdef-new\n0123456789abcdef-old\n".to_owned(),
            "database-url" => "postgres://segue:hush@db.example.com:5432/segue".to_owned(),
            "api-keys" => format!("[{{ id = \"ci\", sha256 = \"{}\" }}]", "0".repeat(64)),
            "callback-secrets" => "0123456789abcdef0123456789abcdef".to_owned(),
            "auth-secrets" => "fedcba9876543210fedcba9876543210".to_owned(),
            "mail-smtp" => "smtps://segue:hush@mail.example.com:465".to_owned(),
            _ => "hush-hush".to_owned(),
        };
        let path = dir.path().join(secret);
        fs::write(&path, text).unwrap();
        command.env(variable, path);
    }
    let checked = command.args(["config", "check", "--config", file.to_str().unwrap()]).output().unwrap();
    assert!(checked.status.success(), "{name}: {}", said(&checked));
    // Its command line is one that the program knows.
    let args = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let helped = run(args.chain(["--help"]));
    assert!(helped.status.success(), "{name}: {}", said(&helped));
    assert!(!run(["serve", "--role", "nothing", "--help"]).status.success(), "a wrong role is refused before help");
}

/// It permits io_uring, and refuses only calls that there are: one that is misspelt would be allowed.
#[test]
fn the_seccomp_profile_names_system_calls_that_there_are() {
    let profile: Value = serde_json::from_str(&read("k8s/components/io-uring/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let header = ok(Command::new("cc").args(["-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]));
    let known: BTreeSet<&str> = header.split_whitespace().filter_map(|word| word.strip_prefix("__NR_")).collect();
    assert!(known.contains("io_uring_setup"));
    for group in profile["syscalls"].as_array().unwrap() {
        assert_eq!(group["action"], "SCMP_ACT_ERRNO");
        for call in group["names"].as_array().unwrap() {
            let call = call.as_str().unwrap();
            assert!(known.contains(call) || cfg!(not(target_arch = "x86_64")), "{call} is no system call");
            assert!(!call.starts_with("io_uring"), "{call}");
        }
    }
}
