SELECT 'Prüfung'
