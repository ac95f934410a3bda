-- The same statements in one file for one psql, its run log being what psql prints.
\set ON_ERROR_STOP on
\o logs/one_file.md
SELECT NOW() AS started \gset
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT COUNT(*) AS total, COUNT(*) FILTER (WHERE extracted_summary IS NOT NULL) AS summaries,
       COUNT(*) FILTER (WHERE skill_keywords IS NOT NULL) AS skills, COUNT(*) FILTER (WHERE ihl_score IS NOT NULL) AS ihl
FROM postings;
SELECT 'summary' AS stage, COUNT(*) FROM postings WHERE extracted_summary IS NULL AND job_description IS NOT NULL
UNION ALL SELECT 'skills', COUNT(*) FROM postings WHERE skill_keywords IS NULL AND extracted_summary IS NOT NULL
UNION ALL SELECT 'ihl', COUNT(*) FROM postings WHERE ihl_score IS NULL AND skill_keywords IS NOT NULL;
SELECT status, COUNT(*) FROM interactions WHERE created_at > NOW() - INTERVAL '24 hours' GROUP BY status ORDER BY count DESC;
SELECT COUNT(*) FROM interactions WHERE status = 'processing' AND updated_at < NOW() - INTERVAL '30 minutes';
SELECT DISTINCT a.actor_name FROM workflow_conversations wc
JOIN conversations c ON wc.conversation_id = c.conversation_id JOIN actors a ON c.actor_id = a.actor_id
WHERE wc.workflow_id = 3001 ORDER BY a.actor_name;
-- further
COMMIT;
\! /bin/true
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT COUNT(*) AS total, COUNT(*) FILTER (WHERE extracted_summary IS NOT NULL) AS summaries,
       COUNT(*) FILTER (WHERE skill_keywords IS NOT NULL) AS skills, COUNT(*) FILTER (WHERE ihl_score IS NOT NULL) AS ihl
FROM postings;
SELECT output->>'error' AS error_type, COUNT(*) FROM interactions
WHERE status = 'failed' AND created_at >= :'started' GROUP BY 1;
SELECT c.conversation_name, COUNT(*) FILTER (WHERE i.status = 'completed') AS completed
FROM interactions i JOIN conversations c USING (conversation_id) GROUP BY 1 ORDER BY 1;
COMMIT;
INSERT INTO interactions (conversation_id, status, input, output)
VALUES (9198, 'completed', '{"workflow_id": 3001}', '{"delta": {"postings_total": 0}}');
