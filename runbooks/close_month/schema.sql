CREATE TABLE accounts (
    account_id    integer PRIMARY KEY,
    account_name  text    NOT NULL
);

-- frozen: the month is being closed, and the booking program posts nothing to it.
CREATE TABLE periods (
    month      text        PRIMARY KEY CHECK (month ~ '^\d{4}-\d{2}$'),
    frozen     boolean     NOT NULL DEFAULT false,
    closed_at  timestamptz
);

CREATE TABLE entries (
    entry_id    bigint        PRIMARY KEY,
    month       text          NOT NULL REFERENCES periods,
    account_id  integer       NOT NULL REFERENCES accounts,
    debit       numeric(12,2) NOT NULL DEFAULT 0 CHECK (debit >= 0),
    credit      numeric(12,2) NOT NULL DEFAULT 0 CHECK (credit >= 0),
    closed      boolean       NOT NULL DEFAULT false
);

CREATE TABLE balances (
    month       text          NOT NULL REFERENCES periods,
    account_id  integer       NOT NULL REFERENCES accounts,
    balance     numeric(14,2) NOT NULL,
    PRIMARY KEY (month, account_id)
);
