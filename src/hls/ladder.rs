//! The encoding plan as data: reads `pipelines/*.toml`. In: TOML text. Out: `Ladder`, or an error
//! naming file, line and field.
