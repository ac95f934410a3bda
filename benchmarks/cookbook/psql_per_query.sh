#!/bin/sh
# The cookbook's way: a psql for each query, the answers appended to a run log. Usage: psql_per_query.sh PSQL FURTHER
set -e
log=logs/psql_per_query.md
q() { "$1" -X -q -d "$DATABASE_URL" -c "$2" >> "$log"; }
state="SELECT COUNT(*) AS total, COUNT(*) FILTER (WHERE extracted_summary IS NOT NULL) AS summaries,
       COUNT(*) FILTER (WHERE skill_keywords IS NOT NULL) AS skills, COUNT(*) FILTER (WHERE ihl_score IS NOT NULL) AS ihl
FROM postings"

echo "# Workflow Run: 3001" > "$log"
q "$1" "$state"
q "$1" "SELECT 'summary' AS stage, COUNT(*) FROM postings WHERE extracted_summary IS NULL AND job_description IS NOT NULL
UNION ALL SELECT 'skills', COUNT(*) FROM postings WHERE skill_keywords IS NULL AND extracted_summary IS NOT NULL
UNION ALL SELECT 'ihl', COUNT(*) FROM postings WHERE ihl_score IS NULL AND skill_keywords IS NOT NULL"
q "$1" "SELECT status, COUNT(*) FROM interactions WHERE created_at > NOW() - INTERVAL '24 hours' GROUP BY status ORDER BY count DESC"
q "$1" "SELECT COUNT(*) FROM interactions WHERE status = 'processing' AND updated_at < NOW() - INTERVAL '30 minutes'"
q "$1" "SELECT DISTINCT a.actor_name FROM workflow_conversations wc
JOIN conversations c ON wc.conversation_id = c.conversation_id JOIN actors a ON c.actor_id = a.actor_id
WHERE wc.workflow_id = 3001 ORDER BY a.actor_name"
number=0
while [ "$number" -lt "$2" ]; do
    q "$1" "SELECT COUNT(*) FROM postings WHERE posting_id = $number"
    number=$((number + 1))
done
/bin/true
q "$1" "$state"
q "$1" "SELECT output->>'error' AS error_type, COUNT(*) FROM interactions
WHERE status = 'failed' AND created_at >= NOW() - INTERVAL '1 minute' GROUP BY 1"
q "$1" "SELECT c.conversation_name, COUNT(*) FILTER (WHERE i.status = 'completed') AS completed
FROM interactions i JOIN conversations c USING (conversation_id) GROUP BY 1 ORDER BY 1"
q "$1" "INSERT INTO interactions (conversation_id, status, input, output)
VALUES (9198, 'completed', '{\"workflow_id\": 3001}', '{\"delta\": {\"postings_total\": 0}}')"
