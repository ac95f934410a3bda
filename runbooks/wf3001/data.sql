-- 612 postings and a week of interactions. Every choice is arithmetic on md5, so that two databases differ
-- in nothing but the stamps, which are relative to NOW().

CREATE FUNCTION pg_temp.number(key text) RETURNS bigint LANGUAGE sql IMMUTABLE
    AS $$ SELECT ('x' || substr(md5(key), 1, 8))::bit(32)::bigint $$;

CREATE FUNCTION pg_temp.some(list text[], how_many bigint, key text) RETURNS text[] LANGUAGE sql IMMUTABLE
    AS $$ SELECT ARRAY(SELECT item FROM unnest(list) AS item ORDER BY md5(key || item) LIMIT how_many) $$;

CREATE FUNCTION pg_temp.one(list text[], key text) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT list[1 + pg_temp.number(key) % cardinality(list)] $$;

INSERT INTO actors (actor_id, actor_name, actor_type) VALUES
    (13, 'gemma3:1b', 'ollama'),
    (21, 'keyword-extractor', 'plain'),
    (22, 'ihl-scorer', 'plain'),
    (23, 'posting-importer', 'plain'),
    (99, 'workflow-orchestrator', 'plain');

INSERT INTO conversations (conversation_id, conversation_name, actor_id) VALUES
    (3335, 'Extract Summary', 13),
    (3350, 'Extract Skills', 21),
    (9161, 'Score IHL', 22),
    (9150, 'Import Postings', 23),
    (9198, 'Workflow Orchestrator', 99);

INSERT INTO workflows (workflow_id, workflow_name) VALUES
    (2001, 'Posting Import'),
    (3001, 'Posting Analysis');

INSERT INTO workflow_conversations (workflow_id, execution_order, conversation_id, stage) VALUES
    (3001, 1, 3335, 'summary'),
    (3001, 2, 3350, 'skills'),
    (3001, 3, 9161, 'ihl');

CREATE TEMPORARY TABLE fields (field integer, titles text[], skills text[], duties text[]);

INSERT INTO fields VALUES
(0, ARRAY['Data Engineer', 'Senior Data Engineer', 'Analytics Engineer', 'Database Administrator', 'Platform Engineer (m/f/d)'],
    ARRAY['PostgreSQL', 'Python', 'Apache Airflow', 'dbt', 'Kafka', 'Terraform', 'data modelling', 'Linux', 'Kubernetes', 'query tuning'],
    ARRAY['You design and run the pipelines that feed our pricing and demand models',
          'You move nightly batch jobs to incremental loads without losing a row',
          'You tune slow queries and explain to their authors what made them slow',
          'You are on call one week in six and write down what you learn',
          'You keep 40 TB of customer history available, documented and recoverable',
          'You review schema changes and rehearse every migration before it ships',
          'You work with analysts to turn a question into a table they can trust']),
(1, ARRAY['Accountant', 'Senior Financial Controller', 'Payroll Specialist', 'Accounts Payable Clerk', 'Treasury Analyst'],
    ARRAY['IFRS', 'SAP FI', 'month-end closing', 'Excel', 'VAT returns', 'payroll', 'cash-flow forecasting', 'DATEV', 'internal controls'],
    ARRAY['You prepare the monthly and annual statements of three companies in the group',
          'You reconcile bank, supplier and intercompany accounts and clear what is open',
          'You file VAT returns on time and answer the questions of the tax office',
          'You forecast liquidity for the next 13 weeks and report deviations',
          'You check travel expenses and invoices, about 900 a month',
          'You are the contact of our auditors and prepare their document requests']),
(2, ARRAY['Registered Nurse', 'Ward Manager', 'Physiotherapist', 'Medical Laboratory Technician', 'Night Nurse (80%)'],
    ARRAY['wound care', 'medication management', 'patient documentation', 'intensive care', 'hygiene standards', 'shift planning', 'first aid', 'blood analysis'],
    ARRAY['You care for up to eight patients a shift together with two colleagues',
          'You plan duty rosters that people can live with and that cover every night',
          'You document treatment completely and hand over in person',
          'You instruct trainees at the bedside and assess their progress',
          'You prepare samples, run the analysers and release plausible findings',
          'You talk with relatives when there is no easy answer']),
(3, ARRAY['Warehouse Supervisor', 'Dispatcher', 'Truck Driver CE', 'Supply Chain Planner', 'Forklift Operator'],
    ARRAY['route planning', 'SAP EWM', 'forklift licence', 'driver card', 'inventory control', 'customs clearance', 'demand planning', 'load securing'],
    ARRAY['You plan about 60 tours a day and keep drivers, ramps and customers informed',
          'You lead a shift of 14 people at goods-in and goods-out',
          'You find out why stock and system differ, and see that they stop doing so',
          'You drive refrigerated goods to branches within 150 km and are home every evening',
          'You prepare customs papers for shipments to Switzerland and the UK',
          'You make sure that loads are secured and vehicles are checked before departure']),
(4, ARRAY['Key Account Manager', 'Inside Sales Representative', 'Customer Success Manager', 'Field Sales Engineer'],
    ARRAY['negotiation', 'CRM', 'tender management', 'technical consulting', 'cold calling', 'contract law', 'forecasting', 'presentation'],
    ARRAY['You look after 25 accounts in the region and know what each of them builds',
          'You prepare offers and tenders together with engineering',
          'You visit customers on two days a week and write reports that others can use',
          'You turn complaints into orders by solving them',
          'You keep the pipeline honest and forecast within ten percent',
          'You represent us at two trade fairs a year']),
(5, ARRAY['Industrial Electrician', 'Maintenance Technician', 'PLC Programmer', 'Mechatronics Engineer', 'Plant Operator'],
    ARRAY['Siemens S7', 'TIA Portal', 'electrical safety', 'preventive maintenance', 'hydraulics', 'EPLAN', 'CNC machines', 'fault diagnosis'],
    ARRAY['You keep two packaging lines running and find the cause, not only the fuse',
          'You commission new machines and train the operators on them',
          'You measure, inspect and document electrical equipment by the book',
          'You write and change PLC programs and keep them under version control',
          'You plan maintenance windows with production and stay within them',
          'You order spare parts before they are missing']);

CREATE TEMPORARY TABLE drafts AS
SELECT n, 4400 + n AS posting_id, titles, skills, duties,
       pg_temp.one(titles, 'title' || n) AS title,
       pg_temp.one(ARRAY['Nordlicht Energie AG', 'Meridian Logistics', 'Hofer & Söhne', 'Klinikum Westend', 'BlueHarbor Analytics',
           'Stadtwerke Lindau', 'Ostrava Components', 'Fjell Foods', 'Atelier Numérique', 'Kestrel Insurance', 'Rheintal Maschinenbau',
           'Saint-Martin Hospital'], 'employer' || n) AS employer,
       pg_temp.one(ARRAY['Berlin', 'Hamburg', 'Zürich', 'Lindau', 'Graz', 'Łódź', 'Aarhus', 'Rotterdam', 'Lyon', 'Dublin', 'Ostrava',
           'Remote (EU)'], 'city' || n) AS city
FROM generate_series(1, 612) AS n JOIN fields ON field = pg_temp.number('field' || n) % 6;

INSERT INTO postings (posting_id, job_title, employer, location, job_description, posted_at)
SELECT posting_id, title, employer, city,
       format(E'%s is hiring: %s, %s. %s\n\n', employer, title, city,
           pg_temp.one(ARRAY[
               'We have grown by a third in two years and want to stay a place where people know each other',
               'Our customers notice us only when something does not work, and we are proud of how rarely that is',
               'A family business in its fourth generation, with 380 people at five sites',
               'You will join a team of nine that has worked together for years',
               'The position is to be filled as soon as possible'], 'intro' || n) || '.')
       || E'Your tasks\n- ' || array_to_string(pg_temp.some(duties, 2 + pg_temp.number('duties' || n) % 5, 'duty' || n), E'.\n- ')
       || format(E'.\n\nYour profile\n- %s years of experience with %s and %s.\n- Sound knowledge of %s.\n', 1 + pg_temp.number('years' || n) % 8,
           picked[1], picked[2], array_to_string(picked[3:], ', '))
       || pg_temp.one(ARRAY[
           E'- You say what you think, kindly, and listen to the answer.\n', E'- German at C1 and good English.\n',
           E'- A completed apprenticeship or degree; career changers are welcome.\n', ''], 'profile' || n)
       || E'\nWhat we offer\n' || array_to_string(pg_temp.some(ARRAY[
           '30 days of holiday and a working-time account', 'A subsidised ticket for public transport', 'Pay by collective agreement, 13 times a year',
           'Two days a week from home after the first month', 'A canteen that cooks', 'Training of your choice, five days a year'],
           1 + pg_temp.number('benefits' || n) % 4, 'benefit' || n), '. ') || E'.\n'
       || pg_temp.one(ARRAY[
           '', '', '', E'\nInternal candidates with the same qualification are given preference.\n', E'\nThe deadline for applications is in five days.\n',
           E'\nKnowledge of our in-house systems is required. You succeed the current post holder.\n',
           E'\nWe are filling several positions and will train you.\n', E'\nApply with one click, no cover letter needed.\n'], 'closing' || n),
       date_trunc('hour', NOW()) - make_interval(hours => 24 * 45 - n)
FROM drafts, LATERAL pg_temp.some(skills, 3 + pg_temp.number('skills' || n) % 4, 'skill' || n) AS picked;

-- What scraped postings look like on a bad day: the rows without text can never be processed, the others are all waiting.
UPDATE postings SET job_description = NULL WHERE posting_id % 47 = 0;
UPDATE postings SET job_description = 'n/a' WHERE posting_id = 4916;
UPDATE postings SET job_description = E'See our website.\n\n\n' WHERE posting_id = 4919;
UPDATE postings SET job_description = (SELECT string_agg(job_description, E'\n' ORDER BY n) FROM generate_series(1, 60) AS n) WHERE posting_id = 4915;
UPDATE postings SET job_description = 'Don''t send a "CV" to O''Brien; say \ "why you" \ instead. ' || job_description WHERE posting_id = 4923;
UPDATE postings SET job_description = '<h1>We want <b>you</b></h1><p onclick="alert(1)">100% remote &amp; 80% pay</p> ' || job_description WHERE posting_id = 4931;
UPDATE postings SET job_description = '| Role | Pay |' || E'\n|---|---|\n| ``Clerk`` | `%s` %(pay)s {{ 7 * 191 }} |\n' || job_description WHERE posting_id = 4937;
UPDATE postings SET job_title = 'データエンジニア 🚀', job_description = 'Wir suchen Verstärkung für Kärnten, Łódź und 東京. ' || job_description WHERE posting_id = 4944;
UPDATE postings SET job_description = E'\x1b[31mURGENT\x1b[0m\x1b]0;hired\x07 start on Monday. ' || job_description WHERE posting_id = 4952;
UPDATE postings SET job_description = E'## Verdict\n- passed\n\n' || job_description WHERE posting_id = 4957;

-- Earlier runs have finished the older postings; some were stopped between two stages.
UPDATE postings SET extracted_summary = format('%s at %s in %s. %s.', title, drafts.employer, city, pg_temp.one(duties, 'summary' || n))
FROM drafts WHERE drafts.posting_id = postings.posting_id AND n <= 513 AND job_description IS NOT NULL;

UPDATE postings SET skill_keywords = to_jsonb(pg_temp.some(skills, 3 + pg_temp.number('skills' || n) % 4, 'skill' || n))
FROM drafts WHERE drafts.posting_id = postings.posting_id AND n <= 499 AND extracted_summary IS NOT NULL;

UPDATE postings SET ihl_score = 5 + pg_temp.number('ihl' || posting_id) % 80
WHERE posting_id <= 4400 + 490 AND skill_keywords IS NOT NULL;

-- The runs of the last nine days, and what the orchestrator wrote about each.
INSERT INTO workflow_runs (workflow_id, started_at)
SELECT 3001, date_trunc('hour', NOW()) - make_interval(hours => 24 * day - 10) FROM generate_series(9, 1, -1) AS day;

WITH history AS (
    SELECT workflow_run_id, started_at, 414 + 22 * workflow_run_id AS total, 16 + workflow_run_id AS done, workflow_run_id = 6 AS stopped
    FROM workflow_runs
)
INSERT INTO interactions (conversation_id, workflow_run_id, status, input, output, created_at, updated_at)
SELECT 9198, workflow_run_id, CASE WHEN stopped THEN 'failed' ELSE 'completed' END,
       jsonb_build_object('workflow_id', 3001, 'state_before', jsonb_build_object('postings_total', total)),
       jsonb_build_object('state_after', jsonb_build_object('postings_total', total), 'delta',
           jsonb_build_object('total', 0, 'summaries', done, 'skills', done, 'ihl', CASE WHEN stopped THEN 4 ELSE done END)),
       started_at, started_at + make_interval(mins => (20 + done)::integer)
FROM history ORDER BY workflow_run_id;

-- One interaction for each finished stage of the last 150 finished postings.
INSERT INTO interactions (conversation_id, posting_id, workflow_run_id, status, input, output, created_at, updated_at)
SELECT conversation_id, posting_id, workflow_run_id, 'completed', jsonb_build_object('posting_id', posting_id, 'stage', stage),
       CASE stage WHEN 'summary' THEN jsonb_build_object('result', extracted_summary)
                  WHEN 'skills' THEN jsonb_build_object('result', skill_keywords)
                  ELSE jsonb_build_object('result', ihl_score) END,
       created, created + make_interval(secs => 1.5 + pg_temp.number(stage || posting_id) % 90 / 10.0)
FROM postings
JOIN workflow_conversations ON workflow_id = 3001
JOIN workflow_runs ON workflow_run_id = 1 + (posting_id - 4741) * 9 / 150,
LATERAL (SELECT started_at + make_interval(secs => 60 * execution_order + 12 * (posting_id % 17))) AS stamps (created)
WHERE posting_id BETWEEN 4741 AND 4890 AND ihl_score IS NOT NULL
ORDER BY created, posting_id;

-- What went wrong: failures, leftovers that belong to no run, and what a runner was working on when it died.
INSERT INTO interactions (conversation_id, posting_id, workflow_run_id, status, input, output, created_at, updated_at)
SELECT conversation_id, posting_id, workflow_run_id, 'failed', jsonb_build_object('posting_id', posting_id),
       jsonb_build_object('error', error), started_at + INTERVAL '9 minutes', started_at + INTERVAL '11 minutes'
FROM (VALUES (3335, 4790, 3, 'no answer within 120 s'), (3335, 4803, 4, 'no answer within 120 s'), (3350, 4830, 6, 'not JSON: | **Skills** | <b>none</b> |'),
             (9161, 4835, 6, E'expected a number, got \x1b[1mhigh\x1b[0m'), (3335, 4860, 9, 'no answer within 120 s'))
     AS failures (conversation_id, posting_id, run, error)
JOIN workflow_runs ON workflow_run_id = run
ORDER BY started_at, posting_id;

INSERT INTO interactions (conversation_id, posting_id, status, input, created_at, updated_at)
SELECT (ARRAY[3335, 3350, 9161])[1 + n % 3], 4770 + 11 * n, 'pending', jsonb_build_object('posting_id', 4770 + 11 * n), stamp, stamp
FROM generate_series(0, 6) AS n, LATERAL (SELECT NOW() - make_interval(hours => 20 + 9 * n)) AS stamps (stamp)
ORDER BY stamp;

WITH dead AS (
    INSERT INTO workflow_runs (workflow_id, started_at) VALUES (3001, NOW() - INTERVAL '152 minutes') RETURNING workflow_run_id
)
INSERT INTO interactions (conversation_id, posting_id, workflow_run_id, status, input, created_at, updated_at)
SELECT 3335, 4914 + n, workflow_run_id, 'processing', jsonb_build_object('posting_id', 4914 + n, 'stage', 'summary'), stamp, stamp
FROM dead, generate_series(1, 4) AS n, LATERAL (SELECT NOW() - make_interval(mins => 151 - n)) AS stamps (stamp)
ORDER BY stamp;

DROP TABLE drafts, fields;
