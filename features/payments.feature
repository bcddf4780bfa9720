Feature: Payments
  What Stripe says counts once, whoever says it counts only with Stripe's signature, and nothing that was paid is dropped.

  Background:
    Given Ada has signed up

  Scenario Outline: A pack credits what it promises
    When Ada opens a checkout for the <pack> pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes <credit>

    Examples:
      | pack | credit  |
      | $5   | $5.00   |
      | $10  | $10.00  |
      | $25  | $25.50  |
      | $50  | $52.50  |
      | $100 | $110.00 |

  Scenario: A declined card pays nothing
    When Ada opens a checkout for the $25 pack
    And Ada tries to pay with the card "4000000000000002"
    Then the checkout is still open
    And Ada's balance stays $0.00

  Scenario: A price that nobody offers cannot be bought
    When Ada opens a checkout for the price "price_not_ours"
    Then the answer is 400

  Scenario: A checkout does not lead back to a foreign site
    When Ada opens a checkout that leads back to "https://evil.example/dashboard"
    Then the answer is 400 with the message "Invalid redirect URL"

  Scenario: The same event many times, one after the other and at once
    When Stripe reports that Ada paid $30.00, naming a customer
    And Stripe repeats that report 3 times
    And Stripe repeats that report 8 times at once
    Then Ada's balance becomes $30.00
    And Ada's balance stays $30.00
    And the last answer says the event was a duplicate

  Scenario: Two reports of one payment, under different event ids
    When Stripe reports that Ada paid $30.00, naming a customer
    And Stripe reports the same payment under another event id
    Then Ada's balance becomes $30.00
    And Ada's balance stays $30.00

  Scenario: Reports arrive in any order
    Given Stripe is about to report that Ada paid $10.00
    And Stripe is about to report that Ada paid $20.00
    And Stripe is about to report that Ada paid $30.00
    When the reports arrive, the last one first, each twice
    Then Ada's balance becomes $60.00
    And Ada's balance stays $60.00

  Scenario: A forged report credits nothing
    When somebody without the secret reports that Ada paid $30.00
    Then the answer is 400
    And Ada's balance stays $0.00

  Scenario: A report signed with the secret without its prefix credits nothing
    When somebody with a stripped secret reports that Ada paid $30.00
    Then the answer is 400
    And Ada's balance stays $0.00

  Scenario: A report changed on its way credits nothing
    When a signed report that Ada paid $30.00 is changed on its way to $3000.00
    Then the answer is 400
    And Ada's balance stays $0.00

  Scenario: A report without a signature credits nothing
    When a report that Ada paid $30.00 arrives without a signature
    Then the answer is 400
    And Ada's balance stays $0.00

  Scenario Outline: A report signed at another time credits nothing
    When a report that Ada paid $30.00 arrives, signed <seconds> seconds <when>
    Then the answer is <status>
    And Ada's balance becomes <balance>
    And Ada's balance stays <balance>

    Examples:
      | seconds | when  | status | balance |
      | 290     | ago   | 200    | $30.00  |
      | 320     | ago   | 400    | $0.00   |
      | 320     | ahead | 400    | $0.00   |

  Scenario: Forged reports do not keep the real ones out
    When somebody without the secret reports that Ada paid $30.00, 5 times
    And Stripe reports that Ada paid $30.00, naming a customer
    Then Ada's balance becomes $30.00

  Scenario: A checkout that was completed but not paid waits for the money
    When Stripe reports that Ada completed a checkout of $30.00 without paying yet
    Then Ada's balance stays $0.00
    When Stripe reports that the money for it has come
    Then Ada's balance becomes $30.00
    And Ada's balance stays $30.00

  @operator
  Scenario: A payment that names nobody is kept for a person to look at
    When Stripe reports a payment of $30.00 that names nobody
    Then the answer is 200
    And the operator sees an unmatched payment of $30.00
    And Ada's balance stays $0.00

  Scenario: A full refund takes back the credit and its bonus
    When Ada opens a checkout for the $25 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes $25.50
    When the operator refunds that payment at Stripe
    Then Ada's balance becomes $0.00
    And Ada's balance stays $0.00

  Scenario: A partial refund takes back its share
    When Ada opens a checkout for the $100 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes $110.00
    When the operator refunds $50.00 of that payment at Stripe
    Then Ada's balance becomes $55.00
    When the operator refunds $50.00 of that payment at Stripe
    Then Ada's balance becomes $0.00

  Scenario: A dispute takes the money back and stops new bots, until it is won
    When Ada opens a checkout for the $25 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes $25.50
    When Ada's bank disputes that payment
    Then Ada's balance becomes $0.00
    When the operator wins the dispute
    Then Ada's balance becomes $25.50

  Scenario: A lost dispute keeps the money gone
    When Ada opens a checkout for the $25 pack
    And Ada pays with the card "4242424242424242"
    Then Ada's balance becomes $25.50
    When Ada's bank disputes that payment
    Then Ada's balance becomes $0.00
    When the operator loses the dispute
    Then Ada's balance stays $0.00

  Scenario: Nobody reads or spends another customer's credit
    Given Ben has signed up
    And Stripe has reported that Ada paid $30.00
    When Ben asks for the balance of Ada
    Then the answer is 403
    When Ben asks for a balance with Ada's tenant in the header
    Then the answer does not show Ada's balance
