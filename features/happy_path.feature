Feature: From nothing to a running bot
  One customer signs up, pays and gets a running bot. Every request is sent exactly as a customer's client sends it.

  Scenario: The platform answers before anybody has signed up
    Then the platform says it is healthy
    And the platform says it is ready

  Scenario: Signing up, paying, and watching the bot start
    When Ada signs up as "testuser@example.com" with the password "Testpass1"
    Then the answer names Ada and carries a session cookie
    And the cookie is accepted percent-encoded, as received
    And the cookie is accepted decoded
    And Ada's balance is $0.00, with nothing burnt per day and no end in sight
    When Ada opens a checkout for the $25 pack
    Then the checkout has a session of Stripe's and a page to pay on
    When Stripe reports that Ada paid $30.00, naming a customer
    Then Ada's balance becomes $30.00
    And the table credit_transactions shows a purchase of $30.00 by Ada
    When Ada creates the bot "test-bot" from "wopr-network/wopr:latest"
    Then the new bot is being provisioned
    And Ada's bot becomes "running"
    And Docker runs the bot's container, with its volume on "/data"

  Scenario: Paying on Stripe's own page
    Given Ada has signed up
    When Ada opens a checkout for the $25 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes $25.50
    And the table credit_transactions shows a purchase of $25.00 by Ada

  Scenario: A first payment without a customer counts like any other
    Given Ada has signed up
    When Stripe reports that Ada paid $30.00, naming no customer
    Then Ada's balance becomes $30.00
    When Stripe reports that Ada paid $12.00, naming a customer
    Then Ada's balance becomes $42.00

  Scenario: Nobody reads a balance without a session
    When somebody without a session asks for a balance
    Then the answer is 401 with the message "Authentication required"
