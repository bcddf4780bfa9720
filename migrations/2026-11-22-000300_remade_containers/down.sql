ALTER TABLE bot_progress DROP COLUMN remade;
