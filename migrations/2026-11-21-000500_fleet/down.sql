DROP TABLE bot_charges;
DROP TABLE bots;
