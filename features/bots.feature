Feature: Bots
  A bot belongs to one customer, runs only while it can be paid for, and keeps its bytes.

  Scenario: Without credit there is no bot, and the answer says how much is missing
    Given Ada has signed up
    When Ada creates the bot "pauper" from "wopr-network/wopr:latest"
    Then the answer is 402 with the message "Insufficient credits"
    And the answer says that 17 cents are needed
    And Ada has no bots

  Scenario: An image from anywhere else is refused
    Given Ada has signed up and paid $10.00
    When Ada creates the bot "stranger" from "docker.io/library/alpine:latest"
    Then the answer is 400
    And Ada has no bots

  Scenario Outline: A name that Docker would choke on is refused
    Given Ada has signed up and paid $10.00
    When Ada creates the bot "<name>" from "wopr-network/wopr:latest"
    Then the answer is 400
    And Ada has no bots

    Examples:
      | name             |
      | -rf              |
      | ../../etc/passwd |
      | a b              |
      | $(reboot)        |
      | ünïcode          |

  Scenario: Another customer's bot does not exist
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "private"
    And Ben has signed up and paid $10.00
    When Ben asks for Ada's bot
    Then the answer is 404 with the message "Bot not found"
    When Ben stops Ada's bot
    Then the answer is 404 with the message "Bot not found"
    When Ben destroys Ada's bot
    Then the answer is 404 with the message "Bot not found"
    And Ben has no bots
    And Ada's bot stays "running"

  Scenario: A tenant in the request body is not believed
    Given Ada has signed up and paid $10.00
    And Ben has signed up
    When Ada creates the bot "sneaky" in the name of Ben
    Then Ben has no bots

  Scenario: Stopping, starting and restarting keep the bytes
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "keeper"
    And the bot has written "remember me" into "/data/note"
    When Ada stops the bot
    Then Ada's bot becomes "stopped"
    And Docker shows the bot's container stopped
    When Ada starts the bot
    Then Ada's bot becomes "running"
    And the bot still has "remember me" in "/data/note"
    When Ada restarts the bot
    Then Ada's bot becomes "running"
    And the bot still has "remember me" in "/data/note"

  Scenario: A bot whose container was taken away comes back with its bytes
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "phoenix"
    And the bot has written "remember me" into "/data/note"
    When somebody removes the bot's container behind the platform's back
    Then Ada's bot is running again in a new container
    And the bot still has "remember me" in "/data/note"

  Scenario: A bot that was destroyed is gone
    Given Ada has signed up and paid $10.00
    And Ada has a running bot "shortlived"
    When Ada destroys the bot
    Then Ada has no bots
    And Docker no longer has the bot's container

  @docker-away
  Scenario: Docker goes away while a bot is created, and comes back
    Given Ada has signed up and paid $10.00
    And Docker is unreachable
    When Ada creates the bot "patient" from "wopr-network/wopr:latest"
    Then the new bot is being provisioned
    And Ada's bot says that its machine is unreachable
    When Docker is reachable again
    Then Ada's bot becomes "running"
    And Docker runs the bot's container, with its volume on "/data"
