-- A bot that keeps failing has its container made anew once. How often it failed does not tell whether that was done:
-- an engine that is away counts as well.
ALTER TABLE bot_progress ADD COLUMN remade boolean NOT NULL DEFAULT false;
