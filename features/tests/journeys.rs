//! Tells the features. `cargo test -p features --test journeys -- -n 'bot'` tells those whose name matches.

// The runner's futures nest deeper than the compiler looks by default.
#![recursion_limit = "256"]

use std::path::Path;
use std::process::ExitCode;

use cucumber::cli::{Empty, Opts};
use cucumber::{World as _, WriterExt as _, writer};
use features::stack::Stack;
use features::world::World;
use futures_util::FutureExt as _;

/// Each scenario has a platform of its own; more at once only make each other wait.
const AT_ONCE: usize = 3;
/// What the standard test harness understands and cucumber does not.
const LIBTEST_FLAGS: [&str; 8] = [
    "--test-threads",
    "--nocapture",
    "--no-capture",
    "--show-output",
    "--include-ignored",
    "--exact",
    "--quiet",
    "--format",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        list(!has("--ignored"));
        return ExitCode::SUCCESS;
    }
    if has("--ignored") {
        return ExitCode::SUCCESS;
    }
    let libtest = arguments
        .iter()
        .any(|argument| LIBTEST_FLAGS.iter().any(|flag| argument.split('=').next() == Some(flag)) || argument == "-q");
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    if runtime.block_on(tell(libtest)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As the standard harness lists its tests: this is one.
#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn list(any: bool) {
    if any {
        println!("journeys: test");
    }
}

/// Whether everything went as the features say.
#[expect(clippy::print_stdout, reason = "a reader should know what was not told")]
async fn tell(libtest: bool) -> bool {
    let unavailable = Stack::unavailable_tags();
    for (tag, why) in &unavailable {
        println!("left out: @{tag} ({why})");
    }
    let cucumber = World::cucumber()
        .with_writer(writer::Basic::stdout().summarized())
        .max_concurrent_scenarios(AT_ONCE)
        .fail_on_skipped()
        .after(|_, _, scenario, _, world| {
            let name = scenario.name.clone();
            async move {
                if let Some(world) = world
                    && let Err(error) = world.end().await
                {
                    panic!("{name}: what it made could not be removed: {error:#}");
                }
            }
            .boxed_local()
        });
    // Flags of the standard harness are none of cucumber's; without them its own are read.
    let cucumber = if libtest { cucumber.with_cli(Opts::<_, _, _, Empty>::default()) } else { cucumber };
    let features = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = cucumber
        .filter_run(features, move |feature, _, scenario| {
            let tags = || feature.tags.iter().chain(&scenario.tags);
            !unavailable.iter().any(|(left_out, _)| tags().any(|tag| tag == left_out))
        })
        .await;
    !writer::Stats::execution_has_failed(&told)
}
