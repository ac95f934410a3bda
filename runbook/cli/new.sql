CREATE TABLE items (
    id      integer PRIMARY KEY,
    done    boolean NOT NULL DEFAULT false,
    done_at timestamptz
);
INSERT INTO items (id) SELECT * FROM generate_series(1, 10);
