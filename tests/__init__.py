"""Tests by level: unit and property without I/O, conformance (the store on each database), integration, acceptance."""
