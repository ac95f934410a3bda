SELECT count(*)
FROM items
WHERE name = '{{ params.table }}'
