@clock
Feature: What passing time costs
  A bot costs 17 cents a day. When credit runs out the bot keeps running for three days of grace, then stops with its
  bytes kept, and runs again as soon as there is credit.

  Scenario: A bot is charged once a day
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "daily"
    When 1 day passes
    Then Ada has been charged for the bot within the last day
    When 3 days pass, one by one
    Then Ada has been charged 17 cents for each of the last 3 days

  Scenario: A destroyed bot is charged no more
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "brief"
    When Ada destroys the bot
    And 3 days pass, one by one
    Then Ada's balance does not fall any more

  Scenario: Credit runs out, and comes back
    Given Ada has signed up and paid $0.50
    And Ada has a running bot "frugal"
    And the bot has written "remember me" into "/data/note"
    When days pass until the credit is used up
    Then Ada's bot stays "running"
    And Ada is refused another bot
    When 4 days pass, one by one
    Then Ada's bot becomes "stopped"
    And Docker shows the bot's container stopped
    When Ada opens a checkout for the $10 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's bot becomes "running"
    And the bot still has "remember me" in "/data/note"

  Scenario: Paying during the grace days keeps everything running
    Given Ada has signed up and paid $0.50
    And Ada has a running bot "saved"
    When days pass until the credit is used up
    And Ada opens a checkout for the $10 pack
    And Ada pays with the card "4242424242424242"
    And 4 days pass, one by one
    Then Ada's bot stays "running"
