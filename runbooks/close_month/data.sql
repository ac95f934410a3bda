-- Three months of double entries: October is closed, November waits, December has begun.
INSERT INTO accounts (account_id, account_name) VALUES
    (1200, 'Bank'), (1400, 'Receivables'), (1600, 'Payables'), (4120, 'Wages'), (4210, 'Rent'), (8400, 'Sales');

INSERT INTO periods (month, closed_at) VALUES ('2025-10', '2025-11-04 09:12:00+00'), ('2025-11', NULL), ('2025-12', NULL);

-- Each business transaction n is a debit on one account and the same amount as a credit on another.
INSERT INTO entries (entry_id, month, account_id, debit, credit, closed)
SELECT 2 * n - side, month, CASE side WHEN 1 THEN debtor ELSE creditor END,
       CASE side WHEN 1 THEN amount ELSE 0 END, CASE side WHEN 0 THEN amount ELSE 0 END, month = '2025-10'
FROM generate_series(1, 900) AS n
CROSS JOIN generate_series(0, 1) AS side
CROSS JOIN LATERAL (
    SELECT CASE WHEN n <= 380 THEN '2025-10' WHEN n <= 810 THEN '2025-11' ELSE '2025-12' END,
           (ARRAY[1400, 1200, 4120, 4210, 1600])[1 + n % 5], (ARRAY[8400, 1400, 1200, 1600, 1200])[1 + n % 5],
           (1000 + n * 7919 % 250000) / 100.0
) AS transactions (month, debtor, creditor, amount);

INSERT INTO balances (month, account_id, balance)
SELECT month, account_id, SUM(debit - credit) FROM entries WHERE closed GROUP BY month, account_id;
