"""unit and property: no I/O; conformance: the store on each database; integration: real servers; acceptance: `jobworker up`."""
