//! What the child keeps itself from, before it reads anything that was uploaded: a model or a data set that takes over
//! its parser finds no network, no other program and no file but its own.

use std::sync::OnceLock;

use crate::spec::child::{Confinement, Order};
use crate::spec::result::Sandbox;

static IN_FORCE: OnceLock<Option<Sandbox>> = OnceLock::new();

/// What this process was kept from; `None` before, and where it was not asked for.
pub(super) fn in_force() -> Option<Sandbox> {
    IN_FORCE.get().copied().flatten()
}

/// Confines this process, which must have one thread, for good. What the system can't do is left out, and told by
/// [`in_force`].
pub(super) fn confine(confinement: Confinement, order: &Order) {
    let sandbox = confinement.sandbox.then(|| Sandbox {
        files: system::keep_to_files(order, &std::env::temp_dir()),
        network: system::cut_off(),
    });
    // It is set once, here.
    let _ = IN_FORCE.set(sandbox);
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use landlock::{
        ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
        RulesetStatus, path_beneath_rules,
    };
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use crate::spec::child::Order;

    /// Programs' own files, settings of the system, and what the kernel tells of itself and its devices.
    const SYSTEM: [&str; 9] = [
        "/usr", "/lib", "/lib64", "/bin", "/opt", "/etc", "/proc", "/sys", "/run",
    ];

    /// Devices, which are written to: graphics processors above all.
    const DEVICES: &str = "/dev";

    /// Landlock; tells whether the kernel enforces it. `scratch` is written to beside what the order names.
    pub fn keep_to_files(order: &Order, scratch: &Path) -> bool {
        // A list of devices looks at whatever drivers there are.
        if matches!(order, Order::Devices) {
            return false;
        }
        match restrict(order, scratch) {
            Ok(status) => status != RulesetStatus::NotEnforced,
            Err(error) => {
                eprintln!("files can't be closed off: {error}");
                false
            }
        }
    }

    fn restrict(order: &Order, scratch: &Path) -> Result<RulesetStatus, landlock::RulesetError> {
        let abi = ABI::V5;
        let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
        let caches = caches();
        let mut written: Vec<&Path> = order.writes();
        written.push(scratch);
        written.extend(caches.iter().map(|path| path.as_path()));
        let status = Ruleset::default()
            .handle_access(all)?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules([DEVICES], all))?
            .add_rules(path_beneath_rules(order.reads(), read))?
            .add_rules(path_beneath_rules(written, all))?
            .restrict_self()?;
        Ok(status.ruleset)
    }

    /// Where drivers keep compiled shaders (XDG base directories).
    fn caches() -> Vec<std::path::PathBuf> {
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let named = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
        let cache = named.or_else(|| home.map(|home| home.join(".cache")));
        let drivers = ["mesa_shader_cache", "mesa_shader_cache_db", "nvidia"];
        let folders = cache.map(|cache| drivers.map(|driver| cache.join(driver)));
        folders.into_iter().flatten().collect()
    }

    /// Seccomp; tells whether it is in force.
    pub fn cut_off() -> bool {
        let filter = match filter() {
            Ok(filter) => filter,
            Err(error) => {
                eprintln!("system calls can't be filtered: {error}");
                return false;
            }
        };
        match seccompiler::apply_filter(&filter) {
            Ok(()) => true,
            Err(error) => {
                eprintln!("system calls can't be filtered: {error}");
                false
            }
        }
    }

    /// Refuses, with EPERM, what no job needs: sockets, other programs, signals to other processes, and doors into the
    /// kernel that go around this filter (io_uring) or open new ones.
    fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
        let refused = [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
        ];
        let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
            refused.into_iter().map(|call| (call, Vec::new())).collect();
        // A process may send signals to itself, as `abort` does.
        let own = u64::from(std::process::id());
        let not =
            |process| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, process);
        let elsewhere = SeccompRule::new(vec![not(own)?])?;
        rules.insert(libc::SYS_tgkill, vec![elsewhere]);
        // And look at its own limits, where 0 is itself.
        let of_others = SeccompRule::new(vec![not(0)?, not(own)?])?;
        rules.insert(libc::SYS_prlimit64, vec![of_others]);
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            refuse,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use crate::spec::child::Order;

    pub fn keep_to_files(_order: &Order, _scratch: &std::path::Path) -> bool {
        false
    }

    pub fn cut_off() -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// The kernel confines the calling thread, so that one of its own is enough to see what is left.
    #[test]
    fn a_confined_thread_has_no_network_no_programs_and_only_its_files() {
        let own = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let scratch = own.path().to_owned();
        let model = own.path().join("model.onnx");
        let foreign = other.path().join("secret");
        for path in [&model, &foreign] {
            std::fs::write(path, b"x").unwrap();
        }
        let order = Order::Layers {
            model: model.clone(),
        };
        let look = move |path: PathBuf| File::open(path).map(drop).map_err(|error| error.kind());
        let seen = std::thread::spawn(move || {
            let files = system::keep_to_files(&order, &scratch);
            let network = system::cut_off();
            let socket = TcpListener::bind("127.0.0.1:0").map(drop);
            let program = Command::new("/bin/true").status().map(drop);
            let fault = |outcome: std::io::Result<()>| outcome.map_err(|error| error.kind());
            (
                (files, network),
                (look(model), look(foreign)),
                (fault(socket), fault(program)),
            )
        });
        let ((files, network), (own_file, foreign_file), (socket, program)) = seen.join().unwrap();
        assert!(network, "every kernel that Rust runs on has seccomp");
        assert_eq!(socket, Err(ErrorKind::PermissionDenied));
        assert_eq!(program, Err(ErrorKind::PermissionDenied));
        assert_eq!(own_file, Ok(()));
        if files {
            assert_eq!(foreign_file, Err(ErrorKind::PermissionDenied));
        }
    }
}
