//! The `segue` command.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "child", _] => segue::transcode::child_main(),
        [_, "transcode", input, out] => transcode(input, out),
        [_, "probe", input] => report(segue::transcode::probe(input.as_ref(), &segue::transcode::Options::default())),
        _ => ExitCode::from(2),
    }
}

fn transcode(input: &str, out: &str) -> ExitCode {
    let ladder = segue::hls::ladder::Ladder::default_audio();
    let options = segue::transcode::Options::default();
    let progress = &mut |step| eprintln!("{step:?}");
    report(segue::transcode::run(input.as_ref(), &ladder, out.as_ref(), &options, progress, &AtomicBool::new(false)))
}

fn report<T: std::fmt::Debug>(result: segue::base::Result<T>) -> ExitCode {
    match result {
        Ok(value) => {
            eprintln!("{value:#?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("segue: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}
