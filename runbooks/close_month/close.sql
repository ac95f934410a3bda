INSERT INTO balances (month, account_id, balance)
SELECT month, account_id, SUM(debit - credit)
FROM entries
WHERE month = {{ params.month }} AND NOT closed
GROUP BY month, account_id;

UPDATE periods SET closed_at = NOW() WHERE month = {{ params.month }} AND closed_at IS NULL;

UPDATE entries SET closed = true WHERE month = {{ params.month }} AND NOT closed;
