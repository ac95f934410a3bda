"""Pages of runs for a browser: each one document by itself, a pure function of records. Nothing in them is fetched."""
