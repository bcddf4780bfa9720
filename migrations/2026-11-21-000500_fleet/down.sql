DROP TABLE bot_charges;
DROP TABLE bot_progress;
DROP TABLE bots;
